//! The kernel's own delivery: what KVM is told so that a 2-level guest's signals and timers never leave it.
//!
//! By guest-physical addresses, as everything else that KVM keeps of the guest: they hold wherever the host maps its pages, and what
//! KVM writes there counts as changed for a migration.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cantle_abi::{Gfn, Port, VcpuId};
use cantle_evtchn::{KernelPorts, Route};
use kvm_ioctls::{VcpuFd, VmFd};

use super::grace::Grace;
use super::vcpu::VcpuHandle;
use super::xen::{self, Target};
use crate::timers::Timers;

/// KVM's part in a guest's event channels. There is none where KVM cannot deliver events.
pub(crate) struct KernelDelivery {
    vm: Arc<VmFd>,
    handles: Arc<[VcpuHandle]>,
    /// Each vCPU's descriptor, once it is made.
    vcpus: Box<[OnceLock<OwnedFd>]>,
    timers: Arc<Timers>,
    grace: Arc<Grace>,
    /// Whether KVM takes anything at all now.
    on: AtomicBool,
    /// It has refused what it cannot deliver without.
    failed: AtomicBool,
    ports: Mutex<HashMap<Port, Known>>,
}

/// What KVM knows of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Eventfd,
    Port(Port, VcpuId),
    Timer(VcpuId),
}

impl KernelDelivery {
    /// Begins, where this KVM can. Hypercalls are intercepted already.
    pub(crate) fn new(
        vm: Arc<VmFd>,
        handles: Arc<[VcpuHandle]>,
        timers: Arc<Timers>,
        grace: Arc<Grace>,
    ) -> io::Result<Option<Self>> {
        if !xen::delivers(&vm) {
            return Ok(None);
        }
        xen::set_long_mode(&vm)?;
        let delivery = Self {
            vm,
            vcpus: handles.iter().map(|_| OnceLock::new()).collect(),
            handles,
            timers,
            grace,
            on: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            ports: Mutex::default(),
        };
        delivery.resume();
        Ok(Some(delivery))
    }

    /// Whether KVM delivers now.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// A vCPU is made.
    pub(crate) fn add_vcpu(&self, id: VcpuId, vcpu: &VcpuFd) -> io::Result<()> {
        let fd = xen::duplicate(vcpu)?;
        xen::set_vcpu_id(fd.as_fd(), id)?;
        if let Some(place) = index(id).and_then(|index| self.vcpus.get(index)) {
            // There is one vCPU of a number.
            let _ = place.set(fd);
        }
        Ok(())
    }

    /// Shared info is at a frame now.
    pub(crate) fn shared_info_placed(&self, gfn: Gfn) {
        said(
            "where shared info is",
            xen::set_shared_info(&self.vm, gfn).map(Some),
        );
    }

    /// A vCPU's info is at a guest-physical address now.
    pub(crate) fn vcpu_info_placed(&self, vcpu: VcpuId, gpa: u64) {
        if let Err(error) = self.on_vcpu(vcpu, |fd| xen::set_vcpu_info(fd, gpa)) {
            tracing::warn!(%error, %vcpu, "KVM cannot reach a vCPU's info, and delivers no events");
            self.failed.store(true, Ordering::SeqCst);
            self.withdraw();
        }
    }

    /// A vCPU's upcalls come by a vector now.
    pub(crate) fn vector_set(&self, vcpu: VcpuId, vector: u8) {
        said(
            "a vCPU's vector",
            self.on_vcpu(vcpu, |fd| xen::set_vector(fd, vector)),
        );
    }

    /// Sets a vCPU's one-shot timer, 0 for none, where KVM has it; false where it has not.
    pub(crate) fn set_timer(&self, vcpu: VcpuId, expires_ns: u64) -> bool {
        let ports = self.lock();
        let Some((port, _)) = ports
            .iter()
            .find(|(_, known)| **known == Known::Timer(vcpu))
        else {
            return false;
        };
        let set = |fd: BorrowedFd<'_>| xen::set_timer(fd, Some(*port), expires_ns);
        said("a vCPU's timer", self.on_vcpu(vcpu, set)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Port, Known>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks something that concerns a vCPU, which stays outside of the guest meanwhile. `None` where there is no such vCPU.
    fn on_vcpu<R>(
        &self,
        vcpu: VcpuId,
        ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<Option<R>> {
        let place = index(vcpu).and_then(|n| self.vcpus.get(n).zip(self.handles.get(n)));
        let Some((fd, handle)) = place.and_then(|(fd, handle)| Some((fd.get()?, handle))) else {
            return Ok(None);
        };
        handle.outside(|| ask(fd.as_fd())).map(Some)
    }

    /// Gives KVM a vCPU's timer with the time that it is set to.
    fn give_timer(&self, port: Port, vcpu: VcpuId) -> io::Result<Option<()>> {
        let expires_ns = self.timers.take_singleshot(vcpu).unwrap_or(0);
        let given = self.on_vcpu(vcpu, |fd| xen::set_timer(fd, Some(port), expires_ns));
        if !matches!(given, Ok(Some(()))) && expires_ns != 0 {
            let _ = self.timers.set_singleshot(vcpu, expires_ns);
        }
        given
    }

    fn take_timer(&self, vcpu: VcpuId) {
        let taken = self.on_vcpu(vcpu, |fd| {
            let expires_ns = xen::timer(fd)?;
            xen::set_timer(fd, None, 0)?;
            Ok(expires_ns)
        });
        if let Some(expires_ns) = said("a vCPU's timer", taken)
            && expires_ns != 0
        {
            // There is such a vCPU.
            let _ = self.timers.set_singleshot(vcpu, expires_ns);
        }
    }

    fn assign(&self, port: Port, known: Known, target: Target<'_>) -> io::Result<Option<Known>> {
        xen::assign(&self.vm, port, target).map(|()| Some(known))
    }

    fn deassign(&self, port: Port) {
        let done = self.grace.during(|| xen::deassign(&self.vm, port));
        said("that a port is closed", done.map(Some));
    }
}

impl KernelPorts for KernelDelivery {
    fn connect(&self, port: Port, route: Route<'_>) {
        let mut ports = self.lock();
        if !self.is_on() {
            return;
        }
        let known = match (ports.entry(port), route) {
            (Entry::Vacant(_), Route::Eventfd(fd)) => {
                self.assign(port, Known::Eventfd, Target::Eventfd(fd))
            }
            (Entry::Vacant(_), Route::Port { to, vcpu }) => {
                self.assign(port, Known::Port(to, vcpu), Target::Port { to, vcpu })
            }
            (Entry::Vacant(_), Route::Timer(vcpu)) => self
                .give_timer(port, vcpu)
                .map(|given| given.map(|()| Known::Timer(vcpu))),
            (Entry::Occupied(known), Route::Port { to, vcpu })
                if *known.get() != Known::Port(to, vcpu) =>
            {
                let target = Target::Port { to, vcpu };
                xen::update(&self.vm, port, target).map(|()| Some(Known::Port(to, vcpu)))
            }
            (Entry::Occupied(known), _) => Ok(Some(*known.get())),
        };
        match said("a port", known) {
            Some(known) => drop(ports.insert(port, known)),
            // By its old route it would go to the wrong vCPU.
            None if ports.remove(&port).is_some() => self.deassign(port),
            None => {}
        }
    }

    fn disconnect(&self, port: Port) {
        match self.lock().remove(&port) {
            Some(Known::Timer(vcpu)) => self.take_timer(vcpu),
            Some(_) => self.deassign(port),
            None => {}
        }
    }

    fn deliver(&self, port: Port, vcpu: VcpuId) -> bool {
        // Where shared info is nowhere yet KVM refuses.
        self.is_on() && xen::send(&self.vm, port, vcpu).is_ok()
    }

    fn withdraw(&self) {
        let mut ports = self.lock();
        if !self.on.swap(false, Ordering::SeqCst) {
            return;
        }
        tracing::debug!("the kernel delivers no events");
        said(
            "that it delivers nothing",
            xen::configure(&self.vm, false).map(Some),
        );
        let done = self.grace.during(|| xen::deassign_all(&self.vm));
        said("that it has no ports", done.map(Some));
        for (_, known) in ports.drain() {
            if let Known::Timer(vcpu) = known {
                self.take_timer(vcpu);
            }
        }
        // Those that poll there would wait for what does not come.
        self.handles.iter().for_each(VcpuHandle::kick);
    }

    fn resume(&self) {
        let _ports = self.lock();
        if !self.is_on()
            && !self.failed.load(Ordering::SeqCst)
            && said(
                "that it delivers events",
                xen::configure(&self.vm, true).map(Some),
            )
            .is_some()
        {
            self.on.store(true, Ordering::SeqCst);
            tracing::debug!("the kernel delivers events");
        }
    }
}

impl fmt::Debug for KernelDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelDelivery")
            .field("on", &self.on)
            .finish_non_exhaustive()
    }
}

fn index(vcpu: VcpuId) -> Option<usize> {
    usize::try_from(vcpu.0).ok()
}

/// A refusal is a line in the log (not a loud one: the guest chooses addresses that there may not be); what is not done by KVM is done
/// here.
fn said<T>(what: &str, result: io::Result<Option<T>>) -> Option<T> {
    result.unwrap_or_else(|error| {
        tracing::debug!(%error, "KVM does not take {what}");
        None
    })
}

#[cfg(test)]
mod tests;
