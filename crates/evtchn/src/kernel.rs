//! A kernel that takes a guest's signals and delivers its events by itself.

use std::os::fd::BorrowedFd;

use cantle_abi::{Port, VcpuId};

/// What a port of a guest is for, as far as a kernel can know it.
#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    /// Each signal that the guest sends on the port adds one to an eventfd.
    Eventfd(BorrowedFd<'a>),
    /// Each signal that the guest sends on the port makes one of its own ports pending: an IPI's is the same.
    Port {
        /// Which one.
        to: Port,
        /// The vCPU that this one is delivered to.
        vcpu: VcpuId,
    },
    /// The port becomes pending when the vCPU's one-shot timer expires (`VIRQ_TIMER`).
    Timer(VcpuId),
}

/// A kernel that knows the 2-level interface, and can spare a guest's signals the way through this process.
///
/// All but [`deliver`](Self::deliver) are called with the guest's control lock held, so one at a time. Like an
/// [`Upcall`](crate::Upcall) none of them may call back into any event channel operation of the same [`Hub`](crate::Hub).
///
/// It begins with nothing connected, and taking what it is told. What it does not take, or cannot, is done here: a port that is not
/// connected there is one whose signals come by [`GuestDomain::send`](crate::GuestDomain::send).
pub trait KernelPorts: Send + Sync {
    /// The port is bound; or it was, and the vCPU in its route is another now. Nothing while
    /// [withdrawn](Self::withdraw).
    fn connect(&self, port: Port, route: Route<'_>);

    /// The port is about to be closed or bound to something else: when this returns the kernel does nothing more by it, nor is
    /// about to. Nothing where it is not connected.
    fn disconnect(&self, port: Port);

    /// Makes a port pending and has its vCPU told, by the rules of the 2-level interface. False where that is not done: it is
    /// then done here. Called with the lock of the port that sends held, from whichever thread signals.
    fn deliver(&self, port: Port, vcpu: VcpuId) -> bool;

    /// Disconnects all ports. From now on nothing is connected or delivered: the guest changes to an interface that the
    /// kernel does not know, or its signals are to be counted.
    fn withdraw(&self);

    /// Ports may be connected again; those that are bound will be.
    fn resume(&self);
}

/// A kernel that does nothing of the kind.
impl KernelPorts for () {
    fn connect(&self, _port: Port, _route: Route<'_>) {}
    fn disconnect(&self, _port: Port) {}
    fn deliver(&self, _port: Port, _vcpu: VcpuId) -> bool {
        false
    }
    fn withdraw(&self) {}
    fn resume(&self) {}
}
