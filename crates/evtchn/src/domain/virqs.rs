//! Which port each virtual interrupt of a guest is bound to.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use cantle_abi::xen::{NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};
use cantle_abi::{Port, VcpuId};

/// Per-vCPU virtual interrupts; the others are global, and bound on vCPU 0.
pub(crate) fn is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// The port of each virtual interrupt of each vCPU; 0 for none. Changed under the slot's write lock.
pub(crate) struct Virqs(Box<[AtomicU32]>);

impl Virqs {
    pub(super) fn new(vcpus: u32) -> Self {
        let entries = u64::from(vcpus) * u64::from(NR_VIRQS);
        Self((0..entries).map(|_| AtomicU32::new(0)).collect())
    }

    /// `None` where there is no such interrupt or vCPU. A global one may have been moved to another vCPU since it was bound.
    pub(super) fn entry(&self, virq: u32, vcpu: VcpuId) -> Option<&AtomicU32> {
        if virq >= NR_VIRQS {
            return None;
        }
        let vcpu = if is_global(virq) { VcpuId(0) } else { vcpu };
        let entry = u64::from(vcpu.0) * u64::from(NR_VIRQS) + u64::from(virq);
        self.0.get(usize::try_from(entry).ok()?)
    }

    /// The port that an interrupt is bound to.
    pub(super) fn port(&self, virq: u32, vcpu: VcpuId) -> Option<Port> {
        let port = self.entry(virq, vcpu)?.load(SeqCst);
        (port != 0).then_some(Port(port))
    }

    pub(super) fn unbind(&self, virq: u32, vcpu: VcpuId) {
        if let Some(entry) = self.entry(virq, vcpu) {
            entry.store(0, SeqCst);
        }
    }
}
