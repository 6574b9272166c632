//! How often each port was seen pending, by which vCPU, and in which order.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use cantle_abi::Port;
use cantle_abi::event_channel::EVTCHN_FIFO_NR_CHANNELS;

const PORTS: usize = EVTCHN_FIFO_NR_CHANNELS as usize;
/// As many of the last ports are remembered in their order.
const REMEMBERED: usize = 64;

static COUNTS: [AtomicU32; PORTS] = [const { AtomicU32::new(0) }; PORTS];
/// The vCPU that saw it last.
static SEEN_BY: [AtomicU8; PORTS] = [const { AtomicU8::new(u8::MAX) }; PORTS];
/// The ports seen, the newest over the oldest.
static LAST: [AtomicU32; REMEMBERED] = [const { AtomicU32::new(0) }; REMEMBERED];
/// Ports seen in all.
static ALL: AtomicU32 = AtomicU32::new(0);

/// Counts a port that a vCPU took.
pub(super) fn note(port: u32, vcpu: u32) {
    let index = port as usize;
    if let (Some(count), Some(seen_by)) = (COUNTS.get(index), SEEN_BY.get(index)) {
        let place = ALL.fetch_add(1, Ordering::Relaxed) as usize % REMEMBERED;
        if let Some(last) = LAST.get(place) {
            last.store(port, Ordering::Relaxed);
        }
        seen_by.store(u8::try_from(vcpu).unwrap_or(u8::MAX), Ordering::Relaxed);
        count.fetch_add(1, Ordering::Release);
    }
}

/// How often a port was seen pending.
pub(crate) fn count(port: Port) -> u32 {
    COUNTS
        .get(port.0 as usize)
        .map_or(0, |count| count.load(Ordering::Acquire))
}

/// The vCPU that saw the port pending last.
pub(crate) fn seen_by(port: Port) -> u32 {
    SEEN_BY
        .get(port.0 as usize)
        .map_or(u32::MAX, |vcpu| vcpu.load(Ordering::Relaxed).into())
}

/// How many were seen so far, of all ports.
pub(crate) fn all() -> u32 {
    ALL.load(Ordering::Acquire)
}

/// The `N` ports that were seen after the first `before`, in their order; 0 for those that were not.
pub(crate) fn after<const N: usize>(before: u32) -> [u32; N] {
    let seen = all().wrapping_sub(before) as usize;
    let mut ports = [0; N];
    for (i, port) in ports.iter_mut().enumerate().take(seen) {
        let place = (before as usize + i) % REMEMBERED;
        *port = LAST.get(place).map_or(0, |p| p.load(Ordering::Relaxed));
    }
    ports
}
