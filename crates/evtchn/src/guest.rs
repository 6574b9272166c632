//! A virtual machine's event channels: Xen's calls, and the host's side of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cantle_abi::{DomId, Port, SharedMemory, VcpuId};

use crate::domain::{Domain, Guest};
use crate::{
    Abi, EvtchnError, FifoError, PirqError, PirqStatus, RateLimit, RestoreError, Snapshot, Status,
    VcpuInfoError,
};

/// What a guest may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// vCPUs, numbered from 0.
    pub vcpus: u32,
    /// Port numbers, the invalid port 0 included; at most 131,072 (`EVTCHN_FIFO_NR_CHANNELS`). The 2-level interface uses the
    /// first 4096 of them.
    pub max_ports: u32,
}

/// How often things happened to a guest's event channels, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Signals it sent to other domains. What a kernel takes ([`KernelPorts`](crate::KernelPorts)) is not counted, here and below.
    pub sends: u64,
    /// Virtual interrupts it was sent.
    pub virqs: u64,
    /// Signals among its vCPUs.
    pub ipis: u64,
    /// Interrupts of emulated devices it was sent.
    pub pirqs: u64,
    /// Signals it sent on ports that had no other end.
    pub dropped: u64,
    /// Signals it sent faster than its [`RateLimit`] allows. They were delivered.
    pub early: u64,
    /// Times that a vCPU was told ([`Upcall::raise`](crate::Upcall::raise)).
    pub upcalls: u64,
    /// Ports in use.
    pub bound_ports: u32,
}

/// A guest. Dropping it ends the domain's event channels.
///
/// Every method may be called from any thread at any time. Work is bounded, by the number of ports for
/// [`reset`](Self::reset), by a constant for all others.
pub struct GuestDomain {
    domain: Arc<Domain>,
}

impl GuestDomain {
    pub(crate) fn new(domain: Arc<Domain>) -> Self {
        Self { domain }
    }

    /// The domain's number.
    #[must_use]
    pub fn id(&self) -> DomId {
        self.domain.id
    }

    /// `EVTCHNOP_alloc_unbound`: makes a port that `remote` may bind to. Both may be [`DomId::SELF`].
    ///
    /// The permission is for the `remote` that there is now; Xen's is for the number, whoever has it later.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::Denied`] where `dom` is another domain; [`EvtchnError::NoDomain`] where there is no `remote`;
    /// [`EvtchnError::NoFreePort`].
    pub fn alloc_unbound(&self, dom: DomId, remote: DomId) -> Result<Port, EvtchnError> {
        self.own(dom)?;
        self.domain.alloc_unbound(remote, false)
    }

    /// The toolstack's `EVTCHNOP_alloc_unbound` for this guest: the ports of xenstore and of the console, that are there before
    /// it runs. A guest that has no others may still choose its interface ([`init_control`](Self::init_control)).
    ///
    /// # Errors
    ///
    /// [`EvtchnError::NoDomain`] where there is no `remote`; [`EvtchnError::NoFreePort`].
    pub fn give_unbound(&self, remote: DomId) -> Result<Port, EvtchnError> {
        self.domain.alloc_unbound(remote, true)
    }

    /// `EVTCHNOP_bind_interdomain`: connects to a port that `remote` left unbound for this domain. The new port begins pending.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::NoDomain`]; [`EvtchnError::BadPort`] where the port does not wait for this domain;
    /// [`EvtchnError::NoFreePort`].
    pub fn bind_interdomain(&self, remote: DomId, remote_port: Port) -> Result<Port, EvtchnError> {
        self.domain.bind_interdomain(remote, remote_port)
    }

    /// `EVTCHNOP_bind_virq`: binds a virtual interrupt (`VIRQ_*`) of a vCPU; a global one can be bound on vCPU 0 only.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::BadVirq`], [`EvtchnError::NoVcpu`], [`EvtchnError::VirqBound`], [`EvtchnError::NoFreePort`].
    pub fn bind_virq(&self, virq: u32, vcpu: VcpuId) -> Result<Port, EvtchnError> {
        self.domain.bind_virq(virq, vcpu)
    }

    /// `EVTCHNOP_bind_ipi`: makes a port that delivers to one of this domain's vCPUs what any of them sends.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::NoVcpu`], [`EvtchnError::NoFreePort`].
    pub fn bind_ipi(&self, vcpu: VcpuId) -> Result<Port, EvtchnError> {
        self.domain.bind_ipi(vcpu)
    }

    /// `EVTCHNOP_close`: when this returns nothing is delivered by the port any more. A peer's port becomes unbound.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::BadPort`] where it is closed.
    pub fn close(&self, port: Port) -> Result<(), EvtchnError> {
        self.domain.close(port)
    }

    /// `EVTCHNOP_send`: signals the other end; one that waits for its other end swallows the signal.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::BadPort`] where it is closed, or a virtual interrupt's.
    #[inline]
    pub fn send(&self, port: Port) -> Result<(), EvtchnError> {
        self.domain.send(port)
    }

    /// `EVTCHNOP_status`: what the port is.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::Denied`] where `dom` is another domain; [`EvtchnError::BadPort`] for a number beyond the limit.
    pub fn status(&self, dom: DomId, port: Port) -> Result<Status, EvtchnError> {
        self.own(dom)?;
        self.domain.status(port)
    }

    /// `EVTCHNOP_bind_vcpu`: chooses the vCPU that the port is delivered to from now on.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::NoVcpu`]; [`EvtchnError::BadPort`] where it is closed, an IPI's or a per-vCPU virtual interrupt's.
    pub fn bind_vcpu(&self, port: Port, vcpu: VcpuId) -> Result<(), EvtchnError> {
        self.domain.bind_vcpu(port, vcpu)
    }

    /// `EVTCHNOP_unmask`: clears the port's mask bit and delivers what became pending meanwhile. Nothing where it is closed.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::BadPort`] for a number beyond the limit.
    pub fn unmask(&self, port: Port) -> Result<(), EvtchnError> {
        self.domain.unmask(port)
    }

    /// `EVTCHNOP_reset`: closes all ports there are, and goes back to the 2-level interface: the host holds none of the
    /// control blocks and event array pages any more.
    ///
    /// Ports that are made at the same time are closed or stay.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::Denied`] where `dom` is another domain; [`EvtchnError::ResetRaced`] where the guest kept making ports, so
    /// that it still uses the FIFO interface.
    pub fn reset(&self, dom: DomId) -> Result<(), EvtchnError> {
        self.own(dom)?;
        self.domain.reset()
    }

    /// `EVTCHNOP_init_control`: the vCPU's control block is at `offset` in `page`. The first one switches the domain to the
    /// FIFO interface; what is pending is carried over, and delivered when the port's event word comes.
    ///
    /// # Errors
    ///
    /// [`FifoError::InUse`] while the guest has ports of its own open by the 2-level interface; [`FifoError::NoVcpu`];
    /// [`FifoError::BadControlBlock`] where it would cross the page's end or is not aligned;
    /// [`FifoError::ControlBlockPlaced`] the second time; [`FifoError::BadPage`].
    pub fn init_control(
        &self,
        vcpu: VcpuId,
        page: Arc<dyn SharedMemory + Send + Sync>,
        offset: usize,
    ) -> Result<(), FifoError> {
        self.domain.init_control(vcpu, page, offset)
    }

    /// `EVTCHNOP_expand_array`: `page` holds the next 1024 event words. What waits for them is delivered.
    ///
    /// # Errors
    ///
    /// [`FifoError::NotFifo`], [`FifoError::ArrayFull`], [`FifoError::BadPage`].
    pub fn expand_array(&self, page: Arc<dyn SharedMemory + Send + Sync>) -> Result<(), FifoError> {
        self.domain.expand_array(page)
    }

    /// `EVTCHNOP_set_priority`: from 0, the highest, to 15. An event that is on a queue stays on that one.
    ///
    /// # Errors
    ///
    /// [`FifoError::NoPriorities`] with the 2-level interface; [`FifoError::BadPort`], [`FifoError::ClosedPort`],
    /// [`FifoError::BadPriority`].
    pub fn set_priority(&self, port: Port, priority: u32) -> Result<(), FifoError> {
        self.domain.set_priority(port, priority)
    }

    /// The interface that the guest uses.
    #[must_use]
    pub fn abi(&self) -> Abi {
        self.guest()
            .map_or(Abi::TwoLevel, |guest| guest.events.abi())
    }

    /// Sends the guest a virtual interrupt, a vCPU's or (whatever `vcpu` says) a global one; false where it is not bound.
    pub fn raise_virq(&self, virq: u32, vcpu: VcpuId) -> bool {
        self.domain.raise_virq(virq, vcpu)
    }

    /// `EVTCHNOP_bind_pirq`: binds the interrupt of an emulated device. `flags` are `BIND_PIRQ__*`; others mean nothing, as in Xen.
    /// What the device's line asserts already is delivered at once.
    ///
    /// # Errors
    ///
    /// [`PirqError::NoPirq`] from number 256 on, [`PirqError::Bound`], [`PirqError::Port`].
    pub fn bind_pirq(&self, pirq: u32, flags: u32) -> Result<Port, PirqError> {
        self.domain.bind_pirq(pirq, flags)
    }

    /// Raises a device's interrupt once; false where the guest has not bound it.
    ///
    /// # Errors
    ///
    /// [`PirqError::NoPirq`].
    pub fn raise_pirq(&self, pirq: u32) -> Result<bool, PirqError> {
        self.domain.raise_pirq(pirq)
    }

    /// Sets the line of a device that has one. The interrupt is raised when the line rises, and again at each
    /// [`eoi`](Self::eoi) while it is asserted.
    ///
    /// # Errors
    ///
    /// [`PirqError::NoPirq`].
    pub fn set_pirq_line(&self, pirq: u32, asserted: bool) -> Result<(), PirqError> {
        self.domain.set_pirq_line(pirq, asserted)
    }

    /// `PHYSDEVOP_eoi`: the guest has served an interrupt.
    ///
    /// # Errors
    ///
    /// [`PirqError::NoPirq`].
    pub fn eoi(&self, pirq: u32) -> Result<(), PirqError> {
        self.domain.eoi(pirq)
    }

    /// `PHYSDEVOP_irq_status_query`.
    ///
    /// # Errors
    ///
    /// [`PirqError::NoPirq`].
    pub fn pirq_status(&self, pirq: u32) -> Result<PirqStatus, PirqError> {
        self.domain.pirq_status(pirq)
    }

    /// Sets how many port numbers the guest may use, as [`GuestConfig::max_ports`] did. Ports that are open stay.
    ///
    /// # Errors
    ///
    /// [`EvtchnError::BadConfig`] for none, or more than 131,072.
    pub fn set_max_ports(&self, max_ports: u32) -> Result<(), EvtchnError> {
        self.domain.set_limit(max_ports)
    }

    /// Limits how fast the guest sends signals to other domains, or no more. See [`throttled`](Self::throttled). While there is a
    /// limit no kernel takes its signals ([`KernelPorts`](crate::KernelPorts)).
    pub fn set_rate_limit(&self, limit: Option<RateLimit>) {
        self.domain.set_rate(limit);
    }

    /// How long the host should keep a vCPU that has just sent out of the guest, so that the guest keeps to its limit. The signals
    /// were delivered: they are neither lost nor late, only their sender waits. Never longer than a second.
    #[must_use]
    pub fn throttled(&self) -> Option<Duration> {
        self.domain.rate.owed()
    }

    /// All channels as plain data. To be taken while the guest's vCPUs stand still, and with its memory: a signal that comes
    /// between the two is in one and not in the other.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.domain.snapshot()
    }

    /// Makes the channels of a snapshot, in a guest that was just added and does not run yet.
    ///
    /// A port that was connected to another domain comes back unbound for that domain, which binds to it again under the
    /// same number (and so signals it: nothing is lost in between). One that was connected within the domain is connected.
    ///
    /// FIFO: the guest's interface is FIFO again, with its queues where they were. The VMM hands in the control blocks and the
    /// event array pages again ([`init_control`](Self::init_control), [`expand_array`](Self::expand_array)), the pages first and in
    /// their order; what is pending and on no queue is linked then.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]: the snapshot is checked as a whole, as something that a stranger wrote, before anything is changed.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), RestoreError> {
        self.domain.restore(snapshot)
    }

    /// `VCPUOP_register_vcpu_info`: from now on the vCPU's `vcpu_info` is at `offset` in `page`.
    ///
    /// Its state moves along, and everything is marked pending there, so that nothing is lost on the way; the vCPU is told.
    /// The clock in it is not touched.
    ///
    /// # Errors
    ///
    /// [`VcpuInfoError::NoVcpu`]; [`VcpuInfoError::BadPlace`] where it would cross a page's end or is not aligned;
    /// [`VcpuInfoError::Placed`] the second time.
    pub fn set_vcpu_info(
        &self,
        vcpu: VcpuId,
        page: Arc<dyn SharedMemory + Send + Sync>,
        offset: usize,
    ) -> Result<(), VcpuInfoError> {
        let guest = self.guest().ok_or(VcpuInfoError::NoVcpu(vcpu))?;
        guest.events.vcpus.place_info(vcpu, page, offset)
    }

    /// Whether the port's pending bit is set; false for a number beyond the limit.
    #[must_use]
    pub fn is_pending(&self, port: Port) -> bool {
        self.domain.is_pending(port)
    }

    /// Whether the vCPU's upcall-pending byte is set: what a blocking vCPU looks at before it blocks.
    #[must_use]
    pub fn upcall_pending(&self, vcpu: VcpuId) -> bool {
        self.guest()
            .is_some_and(|guest| guest.events.vcpus.upcall_pending(vcpu))
    }

    /// Has a vCPU look at all of its events: for one that may have missed an upcall, or looked elsewhere for it.
    pub fn mark_upcall(&self, vcpu: VcpuId) {
        if let Some(guest) = self.guest() {
            guest.events.vcpus.select(vcpu, u64::MAX);
            // Where the selector was full already.
            guest.events.vcpus.mark(vcpu);
        }
    }

    /// Begins to poll (`SCHEDOP_poll`): while the guard lives, each port that becomes pending, masked or not, calls
    /// [`Upcall::wake_pollers`](crate::Upcall::wake_pollers). Look at [`is_pending`](Self::is_pending) *after* this, then block.
    #[must_use]
    pub fn poll(&self) -> PollGuard<'_> {
        if let Some(guest) = self.guest() {
            guest.events.vcpus.poll_begin();
        }
        PollGuard(self)
    }

    /// How often things happened. Looks at each open port.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.domain.counters;
        let sends = self.domain.sends();
        Stats {
            sends: sends.sends,
            virqs: counters.virqs.load(Ordering::Relaxed),
            ipis: sends.ipis,
            pirqs: counters.pirqs.load(Ordering::Relaxed),
            dropped: sends.dropped,
            early: self.domain.rate.early(),
            upcalls: self.guest().map_or(0, |guest| guest.events.vcpus.upcalls()),
            bound_ports: self.domain.bound_ports(),
        }
    }

    fn guest(&self) -> Option<&Guest> {
        self.domain.guest()
    }

    /// A guest acts for itself only.
    fn own(&self, dom: DomId) -> Result<(), EvtchnError> {
        if dom.resolve(self.domain.id) == self.domain.id {
            Ok(())
        } else {
            Err(EvtchnError::Denied(dom))
        }
    }
}

impl Drop for GuestDomain {
    fn drop(&mut self) {
        self.domain.end();
    }
}

impl fmt::Debug for GuestDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestDomain")
            .field("id", &self.id())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Somebody polls, until this is dropped: see [`GuestDomain::poll`].
#[derive(Debug)]
pub struct PollGuard<'a>(&'a GuestDomain);

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        if let Some(guest) = self.0.guest() {
            guest.events.vcpus.poll_end();
        }
    }
}
