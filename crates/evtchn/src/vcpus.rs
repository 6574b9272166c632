//! A guest's vCPUs as far as events go: where each one's `vcpu_info` is, and how it is told. The same for both interfaces.

use std::mem::{offset_of, size_of};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

use cantle_abi::xen::{SharedInfo, VcpuInfo, XEN_LEGACY_MAX_VCPUS};
use cantle_abi::{PAGE_SIZE, SharedMemory, VcpuId};

use crate::page::SharedPage;
use crate::place::MAX_VCPUS;
use crate::{EvtchnError, KernelPorts, Upcall, VcpuInfoError};

/// All vCPUs of a guest.
pub(crate) struct Vcpus {
    shared_info: Arc<SharedPage>,
    vcpus: Box<[Vcpu]>,
    upcall: Arc<dyn Upcall>,
    /// Whether `upcall` has one: asked once, for each delivery looks.
    has_kernel: bool,
    pollers: AtomicU32,
    upcalls: AtomicU64,
}

/// Where a vCPU's `vcpu_info` is: in shared info (the first 32), until the guest places it elsewhere, once.
struct Vcpu {
    placed: AtomicBool,
    place: OnceLock<(SharedPage, usize)>,
}

/// The fields of a `vcpu_info` that event channels use.
pub(crate) struct Info<'a> {
    pub(crate) upcall_pending: &'a AtomicU8,
    pub(crate) upcall_mask: &'a AtomicU8,
    pub(crate) pending_sel: &'a AtomicU64,
}

impl<'a> Info<'a> {
    pub(crate) fn at(page: &'a SharedPage, offset: usize) -> Option<Self> {
        Some(Self {
            upcall_pending: page.u8(offset + offset_of!(VcpuInfo, evtchn_upcall_pending))?,
            upcall_mask: page.u8(offset + offset_of!(VcpuInfo, evtchn_upcall_mask))?,
            pending_sel: page.u64(offset + offset_of!(VcpuInfo, evtchn_pending_sel))?,
        })
    }
}

impl Vcpus {
    pub(crate) fn new(
        vcpus: u32,
        shared_info: Arc<SharedPage>,
        upcall: Arc<dyn Upcall>,
    ) -> Result<Self, EvtchnError> {
        if vcpus == 0 || vcpus > MAX_VCPUS || shared_info.len() < size_of::<SharedInfo>() {
            return Err(EvtchnError::BadConfig);
        }
        let vcpu = |_| Vcpu {
            placed: AtomicBool::new(false),
            place: OnceLock::new(),
        };
        Ok(Self {
            shared_info,
            vcpus: (0..vcpus).map(vcpu).collect(),
            has_kernel: upcall.kernel().is_some(),
            upcall,
            pollers: AtomicU32::new(0),
            upcalls: AtomicU64::new(0),
        })
    }

    pub(crate) fn has(&self, vcpu: VcpuId) -> bool {
        self.vcpu(vcpu).is_some()
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.vcpus.len()).unwrap_or(MAX_VCPUS)
    }

    /// The kernel that delivers by itself.
    pub(crate) fn kernel(&self) -> Option<&dyn KernelPorts> {
        if self.has_kernel {
            self.upcall.kernel()
        } else {
            None
        }
    }

    pub(crate) fn upcalls(&self) -> u64 {
        self.upcalls.load(SeqCst)
    }

    pub(crate) fn upcall_pending(&self, vcpu: VcpuId) -> bool {
        self.info(vcpu)
            .is_some_and(|info| info.upcall_pending.load(SeqCst) != 0)
    }

    /// Sets selector bits (2-level) and, where one is new, the upcall byte; raises the upcall where that is new.
    pub(crate) fn select(&self, vcpu: VcpuId, bits: u64) {
        // A vCPU beyond the first 32 without a vcpu_info hears of everything when it places one.
        let Some(info) = self.info(vcpu) else { return };
        if info.pending_sel.fetch_or(bits, SeqCst) & bits != bits {
            self.tell(vcpu, &info);
        }
    }

    /// Sets the upcall byte, and raises the upcall where that is new.
    pub(crate) fn mark(&self, vcpu: VcpuId) {
        if let Some(info) = self.info(vcpu) {
            self.tell(vcpu, &info);
        }
    }

    /// Moves a vCPU's `vcpu_info` to `offset` in `page`, for good, and marks everything pending there, so that nothing that
    /// was marked in the old place meanwhile is lost.
    pub(crate) fn place_info(
        &self,
        vcpu: VcpuId,
        page: Arc<dyn SharedMemory + Send + Sync>,
        offset: usize,
    ) -> Result<(), VcpuInfoError> {
        let state = self.vcpu(vcpu).ok_or(VcpuInfoError::NoVcpu(vcpu))?;
        let page = SharedPage::new(page);
        let end = offset.checked_add(size_of::<VcpuInfo>());
        // Within one page of the guest, even where the memory that is handed in has more.
        let fits =
            end.is_some_and(|end| end <= page.len() && offset / PAGE_SIZE == (end - 1) / PAGE_SIZE);
        if !fits || !offset.is_multiple_of(8) {
            return Err(VcpuInfoError::BadPlace(offset));
        }
        if state.place.set((page, offset)).is_err() {
            return Err(VcpuInfoError::Placed(vcpu));
        }
        let place = state.place.get();
        let Some(new) = place.and_then(|(page, offset)| Info::at(page, *offset)) else {
            return Err(VcpuInfoError::BadPlace(offset));
        };
        if let Some(old) = self.legacy_info(vcpu) {
            new.upcall_mask.store(old.upcall_mask.load(SeqCst), SeqCst);
        }
        state.placed.store(true, SeqCst);
        new.pending_sel.store(u64::MAX, SeqCst);
        new.upcall_pending.store(1, SeqCst);
        // Also where the old byte was set: that interrupt may have come and gone while the guest looked elsewhere.
        self.raise(vcpu);
        Ok(())
    }

    /// Counts somebody who polls until [`poll_end`](Self::poll_end); ports that become pending from now on wake pollers.
    pub(crate) fn poll_begin(&self) {
        self.pollers.fetch_add(1, SeqCst);
    }

    pub(crate) fn poll_end(&self) {
        self.pollers.fetch_sub(1, SeqCst);
    }

    /// A port has become pending.
    pub(crate) fn wake_pollers(&self) {
        if self.pollers.load(SeqCst) != 0 {
            self.upcall.wake_pollers();
        }
    }

    fn tell(&self, vcpu: VcpuId, info: &Info<'_>) {
        if info.upcall_pending.fetch_or(1, SeqCst) & 1 == 0 {
            self.raise(vcpu);
        }
    }

    fn raise(&self, vcpu: VcpuId) {
        self.upcalls.fetch_add(1, SeqCst);
        self.upcall.raise(vcpu);
    }

    fn vcpu(&self, vcpu: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(usize::try_from(vcpu.0).ok()?)
    }

    fn info(&self, vcpu: VcpuId) -> Option<Info<'_>> {
        let state = self.vcpu(vcpu)?;
        if state.placed.load(SeqCst) {
            let (page, offset) = state.place.get()?;
            Info::at(page, *offset)
        } else {
            self.legacy_info(vcpu)
        }
    }

    fn legacy_info(&self, vcpu: VcpuId) -> Option<Info<'_>> {
        let n = usize::try_from(vcpu.0).ok()?;
        if n >= XEN_LEGACY_MAX_VCPUS {
            return None;
        }
        Info::at(&self.shared_info, n * size_of::<VcpuInfo>())
    }
}
