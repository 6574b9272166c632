//! The 2-level interface: a pending bit a port, a selector bit for each 64 of them, a pending byte for each vCPU.
//!
//! The host sets bits from the bottom up, the guest clears them from the top down; each side's steps are sequentially
//! consistent read-modify-writes, so that whoever comes second sees what the first one did:
//!
//! - delivery sets *pending*, then looks at *mask*; the guest clears *mask*, then looks at *pending*;
//! - delivery sets the *selector*, then swaps the *upcall* byte; the guest clears the *upcall* byte, then swaps the *selector*;
//! - delivery sets *pending*, then looks where the `vcpu_info` is; placing it moves it, then sets every selector bit.

use std::mem::{offset_of, size_of};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

use cantle_abi::event_channel::EVTCHN_2L_NR_CHANNELS;
use cantle_abi::xen::{SharedInfo, VcpuInfo, XEN_LEGACY_MAX_VCPUS};
use cantle_abi::{PAGE_SIZE, Port, SharedMemory, VcpuId};

use crate::page::SharedPage;
use crate::{EvtchnError, Upcall};

/// More vCPUs than any guest has (Xen's `HVM_MAX_VCPUS` is 128): bounds what a configuration can make us allocate.
const MAX_VCPUS: u32 = 4096;

/// One guest's 2-level state. All of it but the places of `vcpu_info` is in the guest's memory.
pub(crate) struct TwoLevel {
    shared_info: SharedPage,
    vcpus: Box<[Vcpu]>,
    upcall: Arc<dyn Upcall>,
    pollers: AtomicU32,
    upcalls: AtomicU64,
}

/// Where a vCPU's `vcpu_info` is: in shared info (the first 32), until the guest places it elsewhere, once.
struct Vcpu {
    placed: AtomicBool,
    place: OnceLock<(SharedPage, usize)>,
}

/// The fields of a `vcpu_info` that event channels use.
struct Info<'a> {
    upcall_pending: &'a AtomicU8,
    upcall_mask: &'a AtomicU8,
    pending_sel: &'a AtomicU64,
}

impl<'a> Info<'a> {
    fn at(page: &'a SharedPage, offset: usize) -> Option<Self> {
        Some(Self {
            upcall_pending: page.u8(offset + offset_of!(VcpuInfo, evtchn_upcall_pending))?,
            upcall_mask: page.u8(offset + offset_of!(VcpuInfo, evtchn_upcall_mask))?,
            pending_sel: page.u64(offset + offset_of!(VcpuInfo, evtchn_pending_sel))?,
        })
    }
}

impl TwoLevel {
    pub(crate) fn new(
        vcpus: u32,
        shared_info: Arc<dyn SharedMemory + Send + Sync>,
        upcall: Arc<dyn Upcall>,
    ) -> Result<Self, EvtchnError> {
        let shared_info = SharedPage::new(shared_info);
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
            upcall,
            pollers: AtomicU32::new(0),
            upcalls: AtomicU64::new(0),
        })
    }

    pub(crate) fn has_vcpu(&self, vcpu: VcpuId) -> bool {
        usize::try_from(vcpu.0).is_ok_and(|n| n < self.vcpus.len())
    }

    pub(crate) fn vcpus(&self) -> u32 {
        u32::try_from(self.vcpus.len()).unwrap_or(MAX_VCPUS)
    }

    pub(crate) fn upcalls(&self) -> u64 {
        self.upcalls.load(SeqCst)
    }

    /// Marks `port` pending and tells `vcpu` if it need be told.
    pub(crate) fn set_pending(&self, port: Port, vcpu: VcpuId) {
        let Some((pending, mask, bit)) = self.words(port) else {
            return;
        };
        if pending.fetch_or(bit, SeqCst) & bit != 0 {
            return;
        }
        if mask.load(SeqCst) & bit == 0 {
            self.select(vcpu, 1 << (port.0 / 64));
        }
        if self.pollers.load(SeqCst) != 0 {
            self.upcall.wake_pollers();
        }
    }

    /// Clears the mask bit; delivers what became pending meanwhile.
    pub(crate) fn unmask(&self, port: Port, vcpu: VcpuId) {
        let Some((pending, mask, bit)) = self.words(port) else {
            return;
        };
        if mask.fetch_and(!bit, SeqCst) & bit != 0 && pending.load(SeqCst) & bit != 0 {
            self.select(vcpu, 1 << (port.0 / 64));
        }
    }

    pub(crate) fn clear_pending(&self, port: Port) {
        if let Some((pending, _, bit)) = self.words(port) {
            pending.fetch_and(!bit, SeqCst);
        }
    }

    pub(crate) fn is_pending(&self, port: Port) -> bool {
        self.words(port)
            .is_some_and(|(pending, _, bit)| pending.load(SeqCst) & bit != 0)
    }

    pub(crate) fn upcall_pending(&self, vcpu: VcpuId) -> bool {
        self.info(vcpu)
            .is_some_and(|info| info.upcall_pending.load(SeqCst) != 0)
    }

    /// Moves a vCPU's `vcpu_info` to `offset` in `page`, for good, and marks everything pending there, so that nothing that
    /// was marked in the old place meanwhile is lost.
    pub(crate) fn place_vcpu_info(
        &self,
        vcpu: VcpuId,
        page: Arc<dyn SharedMemory + Send + Sync>,
        offset: usize,
    ) -> Result<(), EvtchnError> {
        let state = self.vcpu(vcpu).ok_or(EvtchnError::NoVcpu(vcpu))?;
        let page = SharedPage::new(page);
        let end = offset.checked_add(size_of::<VcpuInfo>());
        // Within one page of the guest, even where the memory that is handed in has more.
        let fits =
            end.is_some_and(|end| end <= page.len() && offset / PAGE_SIZE == (end - 1) / PAGE_SIZE);
        if !fits || !offset.is_multiple_of(8) {
            return Err(EvtchnError::BadVcpuInfo(offset));
        }
        if state.place.set((page, offset)).is_err() {
            return Err(EvtchnError::VcpuInfoPlaced(vcpu));
        }
        let place = state.place.get();
        let Some(new) = place.and_then(|(page, offset)| Info::at(page, *offset)) else {
            return Err(EvtchnError::BadVcpuInfo(offset));
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

    /// Counts somebody who polls until [`poll_end`](Self::poll_end); pending bits set from now on wake pollers.
    pub(crate) fn poll_begin(&self) {
        self.pollers.fetch_add(1, SeqCst);
    }

    pub(crate) fn poll_end(&self) {
        self.pollers.fetch_sub(1, SeqCst);
    }

    /// Sets selector bits and, where one is new, the upcall byte; raises the upcall where that is new.
    fn select(&self, vcpu: VcpuId, bits: u64) {
        // A vCPU beyond the first 32 without a vcpu_info hears of everything when it places one.
        let Some(info) = self.info(vcpu) else { return };
        if info.pending_sel.fetch_or(bits, SeqCst) & bits != bits
            && info.upcall_pending.fetch_or(1, SeqCst) & 1 == 0
        {
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

    /// A port's pending word, mask word, and its bit in them.
    fn words(&self, port: Port) -> Option<(&AtomicU64, &AtomicU64, u64)> {
        // More ports than the interface has never reach the page (XSA-342).
        if port.0 >= EVTCHN_2L_NR_CHANNELS {
            return None;
        }
        let word = usize::try_from(port.0 / 64).ok()? * 8;
        let pending = self
            .shared_info
            .u64(offset_of!(SharedInfo, evtchn_pending) + word)?;
        let mask = self
            .shared_info
            .u64(offset_of!(SharedInfo, evtchn_mask) + word)?;
        Some((pending, mask, 1 << (port.0 % 64)))
    }
}

#[cfg(test)]
mod tests;
