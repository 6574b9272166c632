//! What the monitor's image must be so that it can be mapped.

use cantle_abi::PAGE_SIZE;
use cantle_pv_monitor::interface::{IMAGE_LIMIT, MONITOR_BASE};

use super::MonitorError;
use crate::boot::elf::{Elf, Segment};

const PAGE: u64 = PAGE_SIZE as u64;

/// The image's segments are where they may be, and none is both code and writable; it begins in code.
pub(super) fn check(elf: &Elf) -> Result<(), MonitorError> {
    let refuse = |address, size, problem| {
        Err(MonitorError::Image {
            address,
            size,
            problem,
        })
    };
    let mut begins_in_code = false;
    for segment in elf.segments() {
        let (address, size) = (segment.vaddr, segment.size);
        let end = address.saturating_add(size);
        if address < MONITOR_BASE || end > MONITOR_BASE + IMAGE_LIMIT {
            return refuse(address, size, "is not where the monitor is");
        }
        if !address.is_multiple_of(PAGE) {
            return refuse(address, size, "does not begin with a page");
        }
        if segment.executable && segment.writable {
            return refuse(address, size, "is both code and writable");
        }
        begins_in_code |= segment.executable && (address..end).contains(&elf.entry());
        let pages = |s: &Segment| s.vaddr / PAGE..(s.vaddr + s.size).div_ceil(PAGE);
        let mut others = elf.segments().iter().filter(|s| *s != segment);
        let shares = |s: &Segment| {
            s.vaddr >= address && s.vaddr < MONITOR_BASE + IMAGE_LIMIT && {
                pages(s).start < pages(segment).end
            }
        };
        if others.any(shares) {
            return refuse(address, size, "shares a page with another segment");
        }
    }
    if !begins_in_code {
        return refuse(elf.entry(), 0, "is its entry, and no code");
    }
    Ok(())
}
