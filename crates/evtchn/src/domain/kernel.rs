//! What a guest's kernel side is told of its ports ([`KernelPorts`]). All of it with the control lock held.

use cantle_abi::Port;
use cantle_abi::xen::VIRQ_TIMER;

use super::{Control, Domain};
use crate::slots::{Binding, Slot};
use crate::{KernelPorts, RateLimit, Route};

impl Domain {
    fn kernel(&self) -> Option<&dyn KernelPorts> {
        self.guest()?.events.vcpus.kernel()
    }

    /// Tells the kernel what a port is bound to now.
    pub(super) fn connect_kernel(&self, port: Port, slot: &Slot) {
        let Some(kernel) = self.kernel() else { return };
        let vcpu = slot.vcpu();
        // A copy: no lock of a slot is held while the kernel works. The binding stays as long as the control lock is held.
        match slot.binding().clone() {
            Binding::System { end } => {
                end.make_direct();
                kernel.connect(port, Route::Eventfd(end.eventfd()));
            }
            Binding::Guest { peer, port: to } if peer.born == self.born => {
                if let Some(vcpu) = peer.slots.get(to).map(Slot::vcpu) {
                    kernel.connect(port, Route::Port { to, vcpu });
                }
            }
            Binding::Ipi => kernel.connect(port, Route::Port { to: port, vcpu }),
            Binding::Virq { virq: VIRQ_TIMER } => kernel.connect(port, Route::Timer(vcpu)),
            _ => {}
        }
    }

    /// A port is delivered to another vCPU now: to a signal that the guest sends itself the kernel must know that.
    pub(super) fn moved_in_kernel(&self, slot: &Slot) {
        if self.kernel().is_some()
            && let Binding::Guest { peer, port } = slot.binding().clone()
            && peer.born == self.born
            && let Some(sender) = peer.slots.get(port)
        {
            self.connect_kernel(port, sender);
        }
    }

    /// The kernel does nothing by a port any more.
    pub(super) fn disconnect_kernel(&self, port: Port) {
        if let Some(kernel) = self.kernel() {
            kernel.disconnect(port);
        }
    }

    /// The kernel does nothing for the guest any more, and all is done here.
    pub(super) fn withdraw_kernel(&self, _control: &Control) {
        if let Some(kernel) = self.kernel() {
            kernel.withdraw();
        }
    }

    /// Sets the limit on signals, or none. The kernel does not count, and is not asked while there is one.
    pub(crate) fn set_rate(&self, limit: Option<RateLimit>) {
        let control = self.control();
        self.rate.set(limit);
        if limit.is_some() {
            self.withdraw_kernel(&control);
        } else {
            self.resume_kernel(&control);
        }
    }

    /// The kernel does again what it can, where it knows the interface.
    pub(super) fn resume_kernel(&self, control: &Control) {
        let (Some(kernel), Some(guest)) = (self.kernel(), self.guest()) else {
            return;
        };
        if !control.alive || guest.events.fifo().is_some() || self.rate.is_limited() {
            return;
        }
        kernel.resume();
        for (port, slot) in self.bound(control) {
            self.connect_kernel(port, slot);
        }
    }
}
