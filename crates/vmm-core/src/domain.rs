//! A guest domain as its vCPUs see it: the parts that serve hypercalls, and the end of its run.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use cantle_abi::hvm::HVM_NR_PARAMS;
use cantle_abi::xen::{SharedInfo, VcpuInfo, XEN_LEGACY_MAX_VCPUS};
use cantle_abi::{DomId, Errno, Gfn, SharedMemory, VcpuId};
use cantle_evtchn::GuestDomain;
use cantle_grant::{GrantTable, InUse, Tables};
use kvm_ioctls::VmFd;

use crate::console::ConsoleOutput;
use crate::counters::Counters;
use crate::kvm::delivery::KernelDelivery;
use crate::kvm::grace::Grace;
use crate::kvm::upcall::MsiUpcall;
use crate::kvm::vcpu::VcpuHandle;
use crate::kvm::vm::system_time_ns;
use crate::memory::GuestRam;
use crate::outcome::End;
use crate::pv::PvDomain;
use crate::runstate::Runstates;
use crate::timers::Timers;

/// No shutdown code is latched.
const NO_CODE: u32 = u32::MAX;

/// The parts a domain is made of, each made by its own crate or module.
pub(crate) struct Parts {
    pub(crate) domid: DomId,
    pub(crate) vcpus: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) vm: Arc<VmFd>,
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) ports: Arc<GuestDomain>,
    pub(crate) grants: Arc<GrantTable>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) upcall: Arc<MsiUpcall>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) handles: Arc<[VcpuHandle]>,
    pub(crate) grace: Arc<Grace>,
    pub(crate) console: Arc<ConsoleOutput>,
    /// Of a PV domain.
    pub(crate) pv: Option<PvDomain>,
}

/// A guest domain. All vCPUs and the host's threads share it.
pub(crate) struct Domain {
    pub(crate) domid: DomId,
    pub(crate) vcpus: u32,
    pub(crate) ram: Arc<GuestRam>,
    pub(crate) ports: Arc<GuestDomain>,
    pub(crate) grants: Arc<GrantTable>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) upcall: Arc<MsiUpcall>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) grace: Arc<Grace>,
    pub(crate) runstates: Runstates,
    pub(crate) pv: Option<PvDomain>,
    uuid: [u8; 16],
    vm: Arc<VmFd>,
    console: Arc<ConsoleOutput>,
    params: Mutex<[u64; HVM_NR_PARAMS]>,
    handles: Arc<[VcpuHandle]>,
    /// vCPUs whose clock is outside shared info.
    own_clock: Vec<AtomicBool>,
    counters: Counters,
    shutdown_code: AtomicU32,
    ended: AtomicBool,
    end: Mutex<Option<End>>,
    end_changed: Condvar,
}

impl Domain {
    pub(crate) fn new(parts: Parts) -> Self {
        let each = || 0..parts.vcpus;
        let domain = Self {
            domid: parts.domid,
            vcpus: parts.vcpus,
            ram: parts.ram,
            ports: parts.ports,
            grants: parts.grants,
            tables: parts.tables,
            upcall: parts.upcall,
            timers: parts.timers,
            grace: parts.grace,
            runstates: Runstates::new(parts.vcpus),
            pv: parts.pv,
            uuid: parts.uuid,
            vm: parts.vm,
            console: parts.console,
            params: Mutex::new([0; HVM_NR_PARAMS]),
            handles: parts.handles,
            own_clock: each().map(|_| AtomicBool::new(false)).collect(),
            counters: Counters::default(),
            shutdown_code: AtomicU32::new(NO_CODE),
            ended: AtomicBool::new(false),
            end: Mutex::new(None),
            end_changed: Condvar::new(),
        };
        domain.set_wall_clock();
        domain
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn uuid(&self) -> &[u8; 16] {
        &self.uuid
    }

    pub(crate) fn system_time_ns(&self) -> u64 {
        system_time_ns(&self.vm)
    }

    #[cfg(test)]
    pub(crate) fn vm(&self) -> &VmFd {
        &self.vm
    }

    pub(crate) fn handle(&self, vcpu: VcpuId) -> Option<&VcpuHandle> {
        self.handles.get(usize::try_from(vcpu.0).ok()?)
    }

    /// Whether the guest has started the vCPU, as far as it was seen: at the first exit after that.
    pub(crate) fn is_up(&self, vcpu: VcpuId) -> bool {
        self.handle(vcpu)
            .is_some_and(|handle| (vcpu.0 == 0 || handle.has_run()) && !handle.is_down())
    }

    /// An HVM parameter; `None` for a number that there is not.
    pub(crate) fn param(&self, index: u32) -> Option<u64> {
        let params = self.params.lock().unwrap_or_else(PoisonError::into_inner);
        params.get(usize::try_from(index).ok()?).copied()
    }

    pub(crate) fn set_param(&self, index: u32, value: u64) {
        let mut params = self.params.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(param) = usize::try_from(index).ok().and_then(|i| params.get_mut(i)) {
            *param = value;
        }
    }

    /// Writes to the emergency console.
    pub(crate) fn console_write(&self, bytes: &[u8]) {
        self.console.write(bytes, || self.has_ended());
    }

    /// KVM's own delivery of events, where it can.
    pub(crate) fn kernel_delivery(&self) -> Option<&KernelDelivery> {
        self.upcall.kernel_delivery()
    }

    /// Sets a vCPU's one-shot timer to a system time, or stops it: KVM's, where it has it, or our own.
    pub(crate) fn set_singleshot(&self, vcpu: VcpuId, timeout: Option<u64>) -> Result<(), Errno> {
        let kernel = self.kernel_delivery();
        if kernel.is_some_and(|kernel| kernel.set_timer(vcpu, timeout.unwrap_or(0))) {
            return Ok(());
        }
        match timeout {
            Some(timeout) => self.timers.set_singleshot(vcpu, timeout),
            None => self.timers.stop_singleshot(vcpu),
        }
    }

    /// Brings all vCPUs out of the guest for a moment.
    pub(crate) fn kick_all(&self) {
        self.handles.iter().for_each(VcpuHandle::kick);
    }

    /// Has KVM keep a vCPU's clock in its `vcpu_info` at a guest-physical address.
    pub(crate) fn place_clock(&self, vcpu: VcpuId, vcpu_info: u64) {
        let index = usize::try_from(vcpu.0).unwrap_or(usize::MAX);
        if let (Some(own), Some(handle)) = (self.own_clock.get(index), self.handles.get(index)) {
            own.store(true, Ordering::Relaxed);
            handle.set_clock(vcpu_info + std::mem::offset_of!(VcpuInfo, time) as u64);
            if let Some(kernel) = self.kernel_delivery() {
                kernel.vcpu_info_placed(vcpu, vcpu_info);
                // What it has put into the old place meanwhile the guest would not find.
                self.ports.mark_upcall(vcpu);
            }
        }
    }

    /// Shared info has a place now: the clocks of vCPUs that have no info of their own are there.
    pub(crate) fn shared_info_placed(&self, gfn: Gfn) {
        let Some(base) = gfn.addr() else { return };
        let kernel = self.kernel_delivery();
        if let Some(kernel) = kernel {
            kernel.shared_info_placed(gfn);
        }
        for (vcpu, (own, handle)) in self
            .own_clock
            .iter()
            .zip(&*self.handles)
            .enumerate()
            .take(XEN_LEGACY_MAX_VCPUS)
        {
            if !own.load(Ordering::Relaxed) {
                let offset =
                    std::mem::offset_of!(SharedInfo, vcpu_info) + vcpu * size_of::<VcpuInfo>();
                let info = base + offset as u64;
                handle.set_clock(info + std::mem::offset_of!(VcpuInfo, time) as u64);
                if let (Some(kernel), Ok(vcpu)) = (kernel, u32::try_from(vcpu)) {
                    kernel.vcpu_info_placed(VcpuId(vcpu), info);
                }
            }
        }
    }

    /// Writes the wall clock at system time 0 into shared info. Done before the guest runs, so without its version dance.
    // UNSAFETY: writes to the shared page.
    #[expect(unsafe_code)]
    fn set_wall_clock(&self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let base = now.saturating_sub(std::time::Duration::from_nanos(self.system_time_ns()));
        let page = self.ram.shared_info();
        let seconds = base.as_secs().to_le_bytes();
        let word = |bytes: Option<&[u8; 4]>| bytes.map_or(0, |b| u32::from_le_bytes(*b));
        let fields = [
            (std::mem::offset_of!(SharedInfo, wc_version), 2),
            (
                std::mem::offset_of!(SharedInfo, wc_sec),
                word(seconds.first_chunk()),
            ),
            (
                std::mem::offset_of!(SharedInfo, wc_nsec),
                base.subsec_nanos(),
            ),
            (
                std::mem::offset_of!(SharedInfo, wc_sec_hi),
                word(seconds.last_chunk()),
            ),
        ];
        for (offset, value) in fields {
            // SAFETY: the offsets are of 32-bit fields inside the page, which is mapped while `page` lives.
            unsafe {
                page.as_ptr()
                    .add(offset)
                    .cast::<u32>()
                    .write_volatile(value)
            };
        }
    }

    /// Keeps a reason for the shutdown to come; the first one counts.
    pub(crate) fn latch_shutdown_code(&self, reason: u32) {
        // Where there is one already, that one stays.
        let _ = self.shutdown_code.compare_exchange(
            NO_CODE,
            reason,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// The reason of a shutdown: what was latched before, or else what the shutdown itself says.
    pub(crate) fn shutdown_reason(&self, reason: u32) -> u32 {
        match self.shutdown_code.load(Ordering::Relaxed) {
            NO_CODE => reason,
            latched => latched,
        }
    }

    /// Whether the run is over; cheap.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Ends the run; the first reason counts. Every vCPU leaves the guest soon after.
    pub(crate) fn end(&self, end: End) {
        {
            let mut slot = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.is_some() {
                return;
            }
            *slot = Some(end);
        }
        self.ended.store(true, Ordering::SeqCst);
        self.end_changed.notify_all();
        self.upcall.sleepers().wake();
        self.kick_all();
    }

    /// Ends the domain's grants, and its mappings of others'. Whoever still uses a page keeps its memory; that is said in the log,
    /// and returned.
    pub(crate) fn end_grants(&self) -> Vec<InUse> {
        let Some(ended) = self.tables.remove(self.domid) else {
            return Vec::new();
        };
        for InUse {
            granter,
            gref,
            grantee,
            uses,
        } in &ended.in_use
        {
            tracing::warn!(%granter, %gref, %grantee, uses, "a grant of an ended domain is still in use");
        }
        ended.in_use
    }

    /// Waits for the end and says why.
    pub(crate) fn wait_for_end(&self) -> End {
        let mut slot = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(end) = &*slot {
                return end.clone();
            }
            slot = self
                .end_changed
                .wait(slot)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("domid", &self.domid)
            .field("vcpus", &self.vcpus)
            .finish_non_exhaustive()
    }
}
