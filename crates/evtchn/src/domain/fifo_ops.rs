//! The FIFO interface's own calls.

use std::sync::Arc;

use cantle_abi::{Port, SharedMemory, VcpuId};

use super::{Control, Domain};
use crate::FifoError;
use crate::fifo::{Fifo, WORDS_PER_PAGE, check_control};
use crate::slots::{Binding, Slot};

impl Domain {
    /// Places a vCPU's control block; the first one switches the domain to FIFO.
    pub(crate) fn init_control(
        &self,
        vcpu: VcpuId,
        page: Arc<dyn SharedMemory + Send + Sync>,
        offset: usize,
    ) -> Result<(), FifoError> {
        let guest = self.guest().ok_or(FifoError::NotFifo)?;
        if !guest.events.vcpus.has(vcpu) {
            return Err(FifoError::NoVcpu(vcpu));
        }
        check_control(offset)?;
        let control = self.control();
        if let Some(fifo) = guest.events.fifo() {
            if fifo.init_control(vcpu, page, offset)? {
                for (port, slot) in self.bound(&control) {
                    guest.events.moved(port, slot);
                }
            }
            return Ok(());
        }
        if self.bound(&control).any(|(_, slot)| !slot.place().given) {
            return Err(FifoError::InUse);
        }
        // Placed before anybody can deliver to it, so that a refusal leaves the interface as it was.
        let fifo = Fifo::new(guest.events.vcpus.count());
        fifo.init_control(vcpu, page, offset)?;
        // What it sets pending by the other interface until this returns is carried over below.
        self.withdraw_kernel(&control);
        guest.events.enter_fifo(fifo);
        for (port, slot) in self.bound(&control) {
            guest.events.carry_over(port, slot);
        }
        Ok(())
    }

    /// Adds a page of event words.
    pub(crate) fn expand_array(
        &self,
        page: Arc<dyn SharedMemory + Send + Sync>,
    ) -> Result<(), FifoError> {
        let guest = self.guest().ok_or(FifoError::NotFifo)?;
        // Held throughout: no reset comes in between (XSA-505), and no port changes hands.
        let _control = self.control();
        let fifo = guest.events.fifo().ok_or(FifoError::NotFifo)?;
        let first = fifo.expand_array(page)?;
        for port in (first.0..first.0 + WORDS_PER_PAGE).map(Port) {
            if let Some(slot) = self.slots.get(port) {
                fifo.deliver_waiting(port, slot, &guest.events.vcpus);
            }
        }
        Ok(())
    }

    /// Chooses a port's priority.
    pub(crate) fn set_priority(&self, port: Port, priority: u32) -> Result<(), FifoError> {
        let slot = self.slots.get(port).ok_or(FifoError::BadPort(port))?;
        let _control = self.control();
        let guest = self.guest().filter(|guest| guest.events.fifo().is_some());
        let guest = guest.ok_or(FifoError::NoPriorities)?;
        if matches!(&*slot.binding(), Binding::Free) {
            return Err(FifoError::ClosedPort(port));
        }
        let queue = slot.place().queue.at(priority);
        slot.set_queue(queue.ok_or(FifoError::BadPriority(priority))?);
        guest.events.moved(port, slot);
        Ok(())
    }

    /// The ports that are bound, as long as the control lock is held.
    pub(super) fn bound<'a>(
        &'a self,
        control: &'a Control,
    ) -> impl Iterator<Item = (Port, &'a Slot)> {
        control.ports.iter().filter_map(|port| {
            let slot = self.slots.get(port)?;
            let bound = !matches!(&*slot.binding(), Binding::Free);
            bound.then_some((port, slot))
        })
    }
}
