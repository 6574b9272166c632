//! Closing ports: one, all, and for good.

use std::sync::Arc;

use cantle_abi::Port;

use super::{Domain, Pair};
use crate::EvtchnError;
use crate::slots::Binding;

/// How often a reset begins anew because ports were made meanwhile.
const RESET_PASSES: u32 = 4;

impl Domain {
    /// Closes a port; a peer's end becomes unbound. Tries again only where another thread has meanwhile changed the port.
    pub(crate) fn close(&self, port: Port) -> Result<(), EvtchnError> {
        let slot = self.slot(port)?;
        loop {
            let peer = slot.binding().peer();
            let mut pair = match &peer {
                Some((far, _)) => Pair::lock(self, far),
                None => Pair {
                    near: self.control(),
                    far: None,
                },
            };
            // Looked at again with the locks held: the peer may be another now.
            let binding = slot.binding().clone();
            let same = match (&peer, &binding.peer()) {
                (None, None) => true,
                (Some((a, p)), Some((b, q))) => Arc::ptr_eq(a, b) && p == q,
                _ => false,
            };
            if !same {
                continue;
            }
            if matches!(binding, Binding::Free) {
                return Err(EvtchnError::BadPort(port));
            }
            if let Some((far, far_port)) = &peer
                && let Some(far_slot) = far.slots.get(*far_port)
            {
                // First, so that nobody sends here any more when the port is freed; the kernel before that, so that no signal
                // of its finds the port gone.
                far.disconnect_kernel(*far_port);
                let unbound = Binding::Unbound {
                    remote: self.id,
                    born: self.born,
                };
                far_slot.rebind(unbound, &far.counters, || ());
            }
            self.disconnect_kernel(port);
            self.release_port(&mut pair.near, port, slot);
            return Ok(());
        }
    }

    /// Closes all ports there are, one by one (nobody else waits for more than one, XSA-344), and goes back to the 2-level
    /// interface.
    ///
    /// Ports made meanwhile stay where the interface is 2-level already. FIFO can be left only when there is none; where the
    /// guest keeps making them this gives up after a few times.
    pub(crate) fn reset(&self) -> Result<(), EvtchnError> {
        // All at once: to disconnect one by one would take the kernel long.
        self.withdraw_kernel(&self.control());
        for _ in 0..RESET_PASSES {
            self.close_all();
            let Some(guest) = self.guest() else {
                return Ok(());
            };
            let mut control = self.control();
            if guest.events.fifo().is_none() {
                self.resume_kernel(&control);
                return Ok(());
            }
            if control.ports.used() == 0 {
                // With the lock held no port is made and none is bound: nobody delivers. Nor does anybody expand (XSA-505).
                guest.events.leave_fifo();
                control.ports.wake_all();
                self.resume_kernel(&control);
                return Ok(());
            }
        }
        Err(EvtchnError::ResetRaced)
    }

    /// Ends the domain: no new ports, all closed, its number free for another.
    pub(crate) fn end(self: &Arc<Self>) {
        self.registry.forget(self);
        {
            let mut control = self.control();
            control.alive = false;
            self.withdraw_kernel(&control);
        }
        self.close_all();
    }

    fn close_all(&self) {
        let ports: Vec<Port> = self.control().ports.iter().collect();
        for port in ports {
            // Another thread may have closed it meanwhile (XSA-343): then there is nothing to do.
            let _ = self.close(port);
        }
    }
}
