//! Making ports.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use cantle_abi::xen::NR_VIRQS;
use cantle_abi::{DomId, Port, VcpuId};

use super::virqs::is_global;
use super::{Domain, Pair};
use crate::EvtchnError;
use crate::slots::{Binding, Slot};

impl Domain {
    /// Makes an unbound port; a system domain's comes with an endpoint. `given`: by the host, for a guest.
    pub(crate) fn alloc_unbound(
        self: &Arc<Self>,
        remote: DomId,
        given: bool,
    ) -> Result<Port, EvtchnError> {
        let remote = remote.resolve(self.id);
        let born = if remote == self.id {
            self.born
        } else {
            self.registry.find(remote)?.born
        };
        let mut control = self.control();
        let (port, slot) = self.take_port(&mut control, given)?;
        slot.rebind(Binding::Unbound { remote, born }, &self.counters, || ());
        Ok(port)
    }

    /// Connects to a port left unbound for this domain. The local end begins pending.
    pub(crate) fn bind_interdomain(
        self: &Arc<Self>,
        remote: DomId,
        remote_port: Port,
    ) -> Result<Port, EvtchnError> {
        let far = self.registry.find(remote.resolve(self.id))?;
        let mut pair = Pair::lock(self, &far);
        if !pair.far().alive {
            return Err(EvtchnError::NoDomain(remote));
        }
        let far_slot = far.slot(remote_port)?;
        match &*far_slot.binding() {
            Binding::Unbound { remote, born } if *remote == self.id && *born == self.born => {}
            _ => return Err(EvtchnError::BadPort(remote_port)),
        }
        let to_far = far
            .binding_to(remote_port, pair.far())
            .ok_or(EvtchnError::BadPort(remote_port))?;
        let (port, slot) = self.take_port(&mut pair.near, false)?;
        let Some(to_near) = self.binding_to(port, &pair.near) else {
            self.release_port(&mut pair.near, port, slot);
            return Err(EvtchnError::BadPort(port));
        };
        slot.rebind(to_far, &self.counters, || ());
        far_slot.rebind(to_near.clone(), &far.counters, || ());
        self.connect_kernel(port, slot);
        far.connect_kernel(remote_port, far_slot);
        to_near.deliver();
        Ok(port)
    }

    /// Binds a virtual interrupt; for a system domain a global one.
    pub(crate) fn bind_virq(
        self: &Arc<Self>,
        virq: u32,
        vcpu: VcpuId,
    ) -> Result<Port, EvtchnError> {
        if virq >= NR_VIRQS || (is_global(virq) && vcpu.0 != 0) {
            return Err(EvtchnError::BadVirq(virq));
        }
        if self.guest().is_some() {
            self.check_vcpu(vcpu)?;
        } else if !is_global(virq) {
            // A system domain has no vCPUs.
            return Err(EvtchnError::BadVirq(virq));
        }
        let entry = self
            .virqs
            .entry(virq, vcpu)
            .ok_or(EvtchnError::NoVcpu(vcpu))?;
        let mut control = self.control();
        if entry.load(SeqCst) != 0 {
            return Err(EvtchnError::VirqBound(virq));
        }
        // Nothing has been changed yet if no port is free (XSA-496).
        let (port, slot) = self.take_port(&mut control, false)?;
        move_to(slot, vcpu)?;
        let binding = match control.ends.get(&port) {
            Some(end) => Binding::SystemVirq {
                virq,
                end: end.clone(),
            },
            None => Binding::Virq { virq },
        };
        slot.rebind(binding, &self.counters, || entry.store(port.0, SeqCst));
        self.connect_kernel(port, slot);
        Ok(port)
    }

    /// Makes a port for signals among a guest's vCPUs.
    pub(crate) fn bind_ipi(self: &Arc<Self>, vcpu: VcpuId) -> Result<Port, EvtchnError> {
        self.check_vcpu(vcpu)?;
        let mut control = self.control();
        let (port, slot) = self.take_port(&mut control, false)?;
        move_to(slot, vcpu)?;
        slot.rebind(Binding::Ipi, &self.counters, || ());
        self.connect_kernel(port, slot);
        Ok(port)
    }

    /// Chooses the vCPU that a port is delivered to.
    pub(crate) fn bind_vcpu(&self, port: Port, vcpu: VcpuId) -> Result<(), EvtchnError> {
        self.check_vcpu(vcpu)?;
        let slot = self.slot(port)?;
        let _control = self.control();
        match &*slot.binding() {
            Binding::Virq { virq } if is_global(*virq) => {}
            Binding::Unbound { .. }
            | Binding::Guest { .. }
            | Binding::System { .. }
            | Binding::Pirq { .. } => {}
            _ => return Err(EvtchnError::BadPort(port)),
        }
        move_to(slot, vcpu)?;
        if let Some(guest) = self.guest() {
            guest.events.moved(port, slot);
            self.moved_in_kernel(slot);
        }
        Ok(())
    }
}

/// Moves a port to a vCPU, which is one that the domain has. The caller holds the control lock.
fn move_to(slot: &Slot, vcpu: VcpuId) -> Result<(), EvtchnError> {
    let queue = slot.place().queue.on(vcpu);
    slot.set_queue(queue.ok_or(EvtchnError::NoVcpu(vcpu))?);
    Ok(())
}
