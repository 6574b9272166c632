//! Interrupts of devices that the host emulates for a guest ("physical" ones, in Xen's words).

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use cantle_abi::Port;
use cantle_abi::event_channel::{BIND_PIRQ__WILL_SHARE, EVTCHN_FIFO_NR_CHANNELS};

use super::Domain;
use crate::PirqError;
use crate::slots::Binding;

/// Interrupts that a guest has, numbered from 0.
const PIRQS: usize = 256;

/// The bits of an entry that name its port; 0 for none.
const PORT: u32 = EVTCHN_FIFO_NR_CHANNELS - 1;
/// The device asserts its line.
const ASSERTED: u32 = 1 << 31;
/// The guest shares the line.
const SHARED: u32 = 1 << 30;
/// The device has a line, rather than edges: the guest must say when it has served it.
const LEVEL: u32 = 1 << 29;

/// What `PHYSDEVOP_irq_status_query` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PirqStatus {
    /// The guest must say when it has served the interrupt (`XENIRQSTAT_needs_eoi`).
    pub needs_eoi: bool,
    /// The guest has bound it as shared (`XENIRQSTAT_shared`).
    pub shared: bool,
}

/// An entry for each interrupt. Its port changes under the slot's write lock.
pub(crate) struct Pirqs(Box<[AtomicU32]>);

impl Pirqs {
    pub(super) fn new() -> Self {
        Self((0..PIRQS).map(|_| AtomicU32::new(0)).collect())
    }

    fn entry(&self, pirq: u32) -> Result<&AtomicU32, PirqError> {
        let entry = usize::try_from(pirq).ok().and_then(|n| self.0.get(n));
        entry.ok_or(PirqError::NoPirq(pirq))
    }

    pub(super) fn bind(&self, pirq: u32, port: Port) {
        if let Ok(entry) = self.entry(pirq) {
            entry.fetch_or(port.0 & PORT, SeqCst);
        }
    }

    pub(super) fn unbind(&self, pirq: u32) {
        if let Ok(entry) = self.entry(pirq) {
            entry.fetch_and(!(PORT | SHARED), SeqCst);
        }
    }
}

impl Domain {
    /// Binds an interrupt. What its line asserts already is delivered.
    pub(crate) fn bind_pirq(self: &Arc<Self>, pirq: u32, flags: u32) -> Result<Port, PirqError> {
        let entry = self.pirqs()?.entry(pirq)?;
        let mut control = self.control();
        if entry.load(SeqCst) & PORT != 0 {
            return Err(PirqError::Bound(pirq));
        }
        let (port, slot) = self.take_port(&mut control, false)?;
        let shared = flags & BIND_PIRQ__WILL_SHARE != 0;
        slot.rebind(Binding::Pirq { pirq }, &self.counters, || {
            entry.fetch_or(port.0 | if shared { SHARED } else { 0 }, SeqCst);
        });
        if entry.load(SeqCst) & ASSERTED != 0 {
            self.deliver(port, slot);
        }
        Ok(port)
    }

    /// Raises an interrupt once; false where the guest has not bound it.
    pub(crate) fn raise_pirq(&self, pirq: u32) -> Result<bool, PirqError> {
        let entry = self.pirqs()?.entry(pirq)?;
        let port = || Some(Port(entry.load(SeqCst) & PORT));
        Ok(self.deliver_bound(port, &self.counters.pirqs))
    }

    /// Sets a device's line: rising, it raises the interrupt.
    pub(crate) fn set_pirq_line(&self, pirq: u32, asserted: bool) -> Result<(), PirqError> {
        let entry = self.pirqs()?.entry(pirq)?;
        if !asserted {
            entry.fetch_and(!ASSERTED, SeqCst);
        } else if entry.fetch_or(ASSERTED | LEVEL, SeqCst) & ASSERTED == 0 {
            self.raise_pirq(pirq)?;
        }
        Ok(())
    }

    /// The guest has served an interrupt: raised again where its line is asserted still.
    pub(crate) fn eoi(&self, pirq: u32) -> Result<(), PirqError> {
        if self.pirqs()?.entry(pirq)?.load(SeqCst) & ASSERTED != 0 {
            self.raise_pirq(pirq)?;
        }
        Ok(())
    }

    pub(crate) fn pirq_status(&self, pirq: u32) -> Result<PirqStatus, PirqError> {
        // Relaxed: a plain question.
        let entry = self.pirqs()?.entry(pirq)?.load(Relaxed);
        Ok(PirqStatus {
            needs_eoi: entry & LEVEL != 0,
            shared: entry & SHARED != 0,
        })
    }

    fn pirqs(&self) -> Result<&Pirqs, PirqError> {
        self.guest()
            .map(|guest| &guest.pirqs)
            .ok_or(PirqError::NoPirq(0))
    }
}
