//! The 2-level interface: bits in shared info.

use core::sync::atomic::{AtomicU64, Ordering};

use cantle_abi::Port;

use super::{seen, shared_info};
use crate::memory::Window;

const PENDING: usize = 2048;
const MASK: usize = 2560;

/// Masks all ports.
pub(super) fn mask_all(shared: &Window) {
    for word in 0..64 {
        shared
            .word64(MASK + word * 8)
            .store(u64::MAX, Ordering::Relaxed);
    }
}

/// Takes what the selector of a vCPU's `info` points at.
pub(super) fn collect(vcpu: u32, shared: &Window, info: &Window) {
    let mut selector = info.word64(8).swap(0, Ordering::AcqRel);
    while selector != 0 {
        let word = selector.trailing_zeros();
        selector &= selector - 1;
        let offset = word as usize * 8;
        let pending = shared.word64(PENDING + offset);
        let unmasked = !shared.word64(MASK + offset).load(Ordering::Relaxed);
        let seen = pending.load(Ordering::Acquire) & unmasked;
        // Another vCPU may look at the same word: whoever clears a bit has the event.
        let mut ready = pending.fetch_and(!seen, Ordering::AcqRel) & seen;
        while ready != 0 {
            seen::note(word * 64 + ready.trailing_zeros(), vcpu);
            ready &= ready - 1;
        }
    }
}

fn bit(base: usize, port: Port) -> Option<(&'static AtomicU64, u64)> {
    let (word, bit) = (port.0 as usize / 64, port.0 % 64);
    (word < 64).then(|| shared_info().map(|s| (s.word64(base + word * 8), 1 << bit)))?
}

pub(super) fn mask(port: Port) -> bool {
    bit(MASK, port).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::AcqRel) & bit != 0)
}

pub(super) fn is_pending(port: Port) -> bool {
    bit(PENDING, port).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
}

pub(super) fn clear(port: Port) {
    if let Some((word, bit)) = bit(PENDING, port) {
        word.fetch_and(!bit, Ordering::AcqRel);
    }
}
