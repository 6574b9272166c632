//! The 2-level interface: a pending bit a port, a selector bit for each 64 of them, a pending byte for each vCPU.
//!
//! The host sets bits from the bottom up, the guest clears them from the top down; each side's steps are sequentially
//! consistent read-modify-writes, so that whoever comes second sees what the first one did:
//!
//! - delivery sets *pending*, then looks at *mask*; the guest clears *mask*, then looks at *pending*;
//! - delivery sets the *selector*, then swaps the *upcall* byte; the guest clears the *upcall* byte, then swaps the *selector*;
//! - delivery sets *pending*, then looks where the `vcpu_info` is; placing it moves it, then sets every selector bit.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use cantle_abi::event_channel::EVTCHN_2L_NR_CHANNELS;
use cantle_abi::xen::SharedInfo;
use cantle_abi::{Port, VcpuId};

use crate::page::SharedPage;
use crate::vcpus::Vcpus;

/// One guest's 2-level state. All of it is in the guest's memory.
pub(crate) struct TwoLevel {
    shared_info: Arc<SharedPage>,
}

impl TwoLevel {
    /// `shared_info` is at least as long as the structure.
    pub(crate) fn new(shared_info: Arc<SharedPage>) -> Self {
        Self { shared_info }
    }

    /// Marks `port` pending and tells `vcpu` if it need be told.
    pub(crate) fn set_pending(&self, port: Port, vcpu: VcpuId, vcpus: &Vcpus) {
        let Some((pending, mask, bit)) = self.words(port) else {
            return;
        };
        if pending.fetch_or(bit, SeqCst) & bit != 0 {
            return;
        }
        if mask.load(SeqCst) & bit == 0 {
            vcpus.select(vcpu, 1 << (port.0 / 64));
        }
        vcpus.wake_pollers();
    }

    /// Clears the mask bit; delivers what became pending meanwhile.
    pub(crate) fn unmask(&self, port: Port, vcpu: VcpuId, vcpus: &Vcpus) {
        let Some((pending, mask, bit)) = self.words(port) else {
            return;
        };
        if mask.fetch_and(!bit, SeqCst) & bit != 0 && pending.load(SeqCst) & bit != 0 {
            vcpus.select(vcpu, 1 << (port.0 / 64));
        }
    }

    /// Clears the pending bit; returns whether it was set.
    pub(crate) fn take_pending(&self, port: Port) -> bool {
        self.words(port)
            .is_some_and(|(pending, _, bit)| pending.fetch_and(!bit, SeqCst) & bit != 0)
    }

    pub(crate) fn is_pending(&self, port: Port) -> bool {
        self.words(port)
            .is_some_and(|(pending, _, bit)| pending.load(SeqCst) & bit != 0)
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
