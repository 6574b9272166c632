//! Which of the two interfaces a guest uses, and the operations of either.

// UNSAFETY: the FIFO state is found by a pointer, so that a delivery needs no lock for it; the locks that deliveries hold anyway
// keep it.
#![expect(unsafe_code)]

use std::ptr;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicPtr, fence};
use std::sync::{PoisonError, RwLock};

use cantle_abi::Port;

use crate::fifo::Fifo;
use crate::slots::Slot;
use crate::two_level::TwoLevel;
use crate::vcpus::Vcpus;

/// By which of Xen's interfaces a guest is told of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// Pending bits and selectors in shared info: up to 4096 ports. What each domain begins with.
    TwoLevel,
    /// Queues of event words: up to 131,072 ports, 16 priorities.
    Fifo,
}

/// A guest's events.
///
/// The FIFO state is made at any time and goes ([`leave_fifo`](Self::leave_fifo)) only while the domain's control lock is held and
/// none of its ports is bound. So it stays there for who holds one of: the control lock; the lock of a slot that is bound to
/// one of the domain's ports, or of a port of the domain that is bound. Every method but [`abi`](Self::abi) and
/// [`is_pending`](Self::is_pending) asks for one of these of its caller.
pub(crate) struct Interface {
    pub(crate) vcpus: Vcpus,
    two_level: TwoLevel,
    /// Null while the guest uses the 2-level interface; otherwise of a box.
    fifo: AtomicPtr<Fifo>,
    /// For those who only look, and hold none of the locks above. Held to write for no longer than it takes to clear the pointer.
    looking: RwLock<()>,
}

impl Interface {
    pub(crate) fn new(vcpus: Vcpus, two_level: TwoLevel) -> Self {
        Self {
            vcpus,
            two_level,
            fifo: AtomicPtr::new(ptr::null_mut()),
            looking: RwLock::new(()),
        }
    }

    pub(crate) fn abi(&self) -> Abi {
        if self.fifo.load(SeqCst).is_null() {
            Abi::TwoLevel
        } else {
            Abi::Fifo
        }
    }

    /// The FIFO state, where that is in use. The caller holds one of the locks that the type's description names.
    pub(crate) fn fifo(&self) -> Option<&Fifo> {
        // SAFETY: null, or of the box that `enter_fifo` leaked. It is freed by `leave_fifo`, which by the rule above finds
        // nobody here, or when the whole interface is dropped.
        unsafe { self.fifo.load(SeqCst).as_ref() }
    }

    /// Switches from 2-level to FIFO. The caller holds the control lock, and carries over what is pending
    /// ([`carry_over`](Self::carry_over)).
    pub(crate) fn enter_fifo(&self, fifo: Fifo) {
        let new = Box::into_raw(Box::new(fifo));
        let old = ptr::null_mut();
        if self
            .fifo
            .compare_exchange(old, new, SeqCst, SeqCst)
            .is_err()
        {
            // SAFETY: of the box above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(new) });
        }
    }

    /// Switches back to 2-level. The caller holds the control lock, and none of the domain's ports is bound.
    pub(crate) fn leave_fifo(&self) {
        let old = {
            let _nobody_looks = self.looking.write().unwrap_or_else(PoisonError::into_inner);
            self.fifo.swap(ptr::null_mut(), SeqCst)
        };
        if !old.is_null() {
            // SAFETY: of the box that `enter_fifo` leaked, taken out by the swap. Nobody delivers, since no port is bound and none
            // can be made; nobody looks, since who did held the lock above, and who comes now finds null.
            drop(unsafe { Box::from_raw(old) });
        }
    }

    /// Takes a port's pending bit along from the 2-level interface.
    pub(crate) fn carry_over(&self, port: Port, slot: &Slot) {
        if let Some(fifo) = self.fifo()
            && self.two_level.take_pending(port)
        {
            fifo.set_pending(port, slot, &self.vcpus);
        }
    }

    /// Sets a port pending and tells its vCPU if it need be told.
    pub(crate) fn set_pending(&self, port: Port, slot: &Slot) {
        if let Some(fifo) = self.fifo() {
            fifo.set_pending(port, slot, &self.vcpus);
            return;
        }
        if !self.kernel_delivers(port, slot) {
            self.two_level.set_pending(port, slot.vcpu(), &self.vcpus);
        }
        // Switched meanwhile: who switched has either carried the bit over, or left it to be found here.
        self.carry_over(port, slot);
    }

    /// Has the kernel set a port pending, which takes a system call; but not where it is pending already.
    fn kernel_delivers(&self, port: Port, slot: &Slot) -> bool {
        let Some(kernel) = self.vcpus.kernel() else {
            return false;
        };
        // As the read-modify-write that finds the bit set: who clears it afterwards sees what was written before.
        fence(SeqCst);
        if self.two_level.is_pending(port) {
            return true;
        }
        let delivered = kernel.deliver(port, slot.vcpu());
        if delivered {
            // Those that wait here; the kernel wakes its own.
            self.vcpus.wake_pollers();
        }
        delivered
    }

    /// Clears a port's mask and delivers what became pending meanwhile.
    pub(crate) fn unmask(&self, port: Port, slot: &Slot) {
        match self.fifo() {
            Some(fifo) => fifo.unmask(port, slot, &self.vcpus),
            None => self.two_level.unmask(port, slot.vcpu(), &self.vcpus),
        }
    }

    /// The port is to be delivered elsewhere now: what could not be put on a queue before may be.
    pub(crate) fn moved(&self, port: Port, slot: &Slot) {
        if let Some(fifo) = self.fifo() {
            fifo.relink(port, slot, &self.vcpus);
        }
    }

    pub(crate) fn clear_pending(&self, port: Port) {
        match self.fifo() {
            Some(fifo) => fifo.clear_pending(port),
            None => {
                self.two_level.take_pending(port);
            }
        }
    }

    /// Whether a port is on a queue still.
    pub(crate) fn is_linked(&self, port: Port) -> bool {
        self.fifo().is_some_and(|fifo| fifo.is_linked(port))
    }

    /// Whether a port's pending bit is set. Needs no lock: pollers ask while they hold their own.
    pub(crate) fn is_pending(&self, port: Port) -> bool {
        let _looking = self.looking.read().unwrap_or_else(PoisonError::into_inner);
        match self.fifo() {
            Some(fifo) => fifo.is_pending(port),
            None => self.two_level.is_pending(port),
        }
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        self.leave_fifo();
    }
}
