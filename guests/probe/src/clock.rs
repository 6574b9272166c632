//! The clock that the host keeps in `vcpu_info.time`.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use cantle_abi::xen::VcpuTimeInfo;

use crate::memory::Window;
use crate::{cpu, events};

/// Where the clock of the first vCPU lies; 0 while it is not known.
static TIME: AtomicU64 = AtomicU64::new(0);

/// The clock lies here from now on.
pub(crate) fn at(addr: u64) {
    TIME.store(addr, Ordering::Relaxed);
}

/// The clock's page contents, read without tearing; `None` where the host does not keep it.
pub(crate) fn info() -> Option<VcpuTimeInfo> {
    let window = events::info_window(TIME.load(Ordering::Relaxed))?;
    consistent(&window)
}

fn consistent(window: &Window) -> Option<VcpuTimeInfo> {
    for _ in 0..10_000 {
        let version = window.word32(0).load(Ordering::Acquire);
        let info: VcpuTimeInfo = window.read(0);
        fence(Ordering::Acquire);
        let after = window.word32(0).load(Ordering::Relaxed);
        if version == after && version & 1 == 0 {
            return (info.tsc_to_system_mul != 0).then_some(info);
        }
    }
    None
}

/// Nanoseconds since some start: the host's clock; where it keeps none, the TSC as if it had 2 GHz.
pub(crate) fn now() -> u64 {
    let tsc = cpu::tsc();
    info().map_or(tsc / 2, |info| system_time(&info, cpu::tsc()))
}

/// The system time at a TSC value, by the header's formula.
pub(crate) fn system_time(info: &VcpuTimeInfo, tsc: u64) -> u64 {
    let delta = tsc.saturating_sub(info.tsc_timestamp);
    let shift = u32::from(info.tsc_shift.unsigned_abs());
    let delta = if info.tsc_shift < 0 {
        delta.checked_shr(shift)
    } else {
        delta.checked_shl(shift)
    };
    let scaled = (u128::from(delta.unwrap_or(0)) * u128::from(info.tsc_to_system_mul)) >> 32;
    info.system_time
        .wrapping_add(u64::try_from(scaled).unwrap_or(u64::MAX))
}

/// Waits until the condition holds; false where that takes longer than `ms` milliseconds. Events are collected meanwhile.
pub(crate) fn wait(ms: u64, mut condition: impl FnMut() -> bool) -> bool {
    let end = now() + ms * 1_000_000;
    loop {
        events::collect();
        if condition() {
            return true;
        }
        if now() > end {
            return condition();
        }
        cpu::pause();
    }
}
