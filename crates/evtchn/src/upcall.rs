//! How a guest's vCPU is told.

use cantle_abi::VcpuId;

use crate::KernelPorts;

/// Tells a vCPU that it has something pending: the host's way to inject the event interrupt.
///
/// Called with locks of the event channels held, from whichever thread signals: an implementation must not call back
/// into any event channel operation of the same [`Hub`](crate::Hub), and should be quick.
pub trait Upcall: Send + Sync {
    /// vCPU `vcpu` has something pending, and had not before.
    ///
    /// The vCPU's upcall-pending byte is set already. Calls may be spurious, never missing.
    fn raise(&self, vcpu: VcpuId);

    /// A port has become pending, masked or not, while somebody held a [`PollGuard`](crate::PollGuard): those who poll
    /// (`SCHEDOP_poll`) should look again. By default nobody polls.
    fn wake_pollers(&self) {}

    /// The kernel that delivers the guest's events where it can. It stays the same. By default there is none.
    fn kernel(&self) -> Option<&dyn KernelPorts> {
        None
    }
}

/// Nobody listens: for domains that only ever look at their pending bits.
impl Upcall for () {
    fn raise(&self, _vcpu: VcpuId) {}
}
