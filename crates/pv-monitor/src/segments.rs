//! The descriptors that are the monitor's: page [`crate::interface::RESERVED_GDT_PAGE`] of each vCPU's table.
//!
//! The guest believes that its kernel runs with the selector 0xe030 or 0xe033 and stack 0xe02b, as under Xen. What is really loaded there are
//! segments of ring 1.

use crate::interface::{MAX_VCPUS, RESERVED_GDT_PAGE};

/// Where the page begins, as a selector.
const FIRST: u16 = 0xe000;
const _: () = assert!(FIRST as u64 == RESERVED_GDT_PAGE * 4096);

/// Words of the page.
pub const WORDS: usize = 512;

/// 32-bit code of programs (`FLAT_RING3_CS32`).
pub const USER_CS32: u16 = FIRST + 0x23;
/// Data of programs (`FLAT_RING3_DS32`).
pub const USER_DS: u16 = FIRST + 0x2b;
/// Code of the guest's kernel.
pub const KERNEL_CS: u16 = FIRST + 0x31;
/// Stack of the guest's kernel.
pub const KERNEL_SS: u16 = FIRST + 0x39;
/// Code of the monitor. Its stack segment follows, as `syscall` and `sysenter` have it.
pub const MONITOR_CS: u16 = FIRST + 0x40;
/// Stack of the monitor.
pub const MONITOR_SS: u16 = FIRST + 0x48;
/// 64-bit code of programs, for those that ask for [`SEEN_USER_CS64`].
pub const USER_CS64: u16 = FIRST + 0x53;
/// The task segment of vCPU 0; those of the others follow, 16 bytes each.
const TASKS: u16 = FIRST + 0x60;

/// The kernel's code segment as the guest sees it in frames: `FLAT_RING3_CS64` with the lower bits 0, which says "kernel".
pub const SEEN_KERNEL_CS: u64 = 0xe030;
/// The kernel's stack segment as the guest sees it.
pub const SEEN_KERNEL_SS: u64 = 0xe02b;
/// `FLAT_RING3_CS64` as the code segment of a program: its index is the kernel's here.
pub const SEEN_USER_CS64: u64 = 0xe033;

/// What `STAR` holds: `syscall` goes to the monitor; `sysretq` loads 0x33 and 0x2b, Linux's selectors of a 64-bit program.
pub const STAR: u64 = (0x23 << 48) | ((MONITOR_CS as u64) << 32);
/// The selectors that `sysretq` loads: cs and ss.
pub const SYSRET: (u64, u64) = (0x33, 0x2b);

/// A vCPU's task segment.
#[must_use]
pub const fn task(vcpu: u32) -> u16 {
    // Below MAX_VCPUS all of it fits.
    let bytes = if vcpu < MAX_VCPUS { vcpu * 16 } else { 0 };
    TASKS + (bytes & 0xffff) as u16
}

/// The descriptor of a vCPU's LDT, which the monitor fills when there is one. It is the task segment's, which the processor looks at only once.
#[must_use]
pub const fn local_table(vcpu: u32) -> u16 {
    task(vcpu)
}

/// Bytes of a task segment without a map of ports.
pub const TASK_BYTES: u64 = 104;

/// Access byte and flags of a flat segment: present, of this ring; `kind` is the type and the flags.
const fn flat(kind: u64, ring: u64) -> u64 {
    0x000f_9000_0000_ffff | kind | (ring << 45)
}
/// Readable code, 64-bit, accessed.
const CODE64: u64 = 0x00a0_0b00_0000_0000;
/// Readable code, 32-bit.
const CODE32: u64 = 0x00c0_0b00_0000_0000;
/// Writable data.
const DATA: u64 = 0x00c0_0300_0000_0000;

/// A descriptor of the page: where, and what.
const FLAT: [(u16, u64); 7] = [
    (USER_CS32, flat(CODE32, 3)),
    (USER_DS, flat(DATA, 3)),
    (KERNEL_CS, flat(CODE64, 1)),
    (KERNEL_SS, flat(DATA, 1)),
    (MONITOR_CS, flat(CODE64, 0)),
    (MONITOR_SS, flat(DATA, 0)),
    (USER_CS64, flat(CODE64, 3)),
];

/// Fills the page; `task_at` says where a vCPU's task segment is.
pub fn fill(page: &mut [u64; WORDS], vcpus: u32, task_at: impl Fn(u32) -> u64) {
    for (selector, descriptor) in FLAT {
        put(page, selector, descriptor);
    }
    for vcpu in 0..vcpus.min(MAX_VCPUS) {
        let base = task_at(vcpu);
        let low = (TASK_BYTES - 1)
            | (0x89 << 40)
            | ((base & 0xff_ffff) << 16)
            | ((base >> 24 & 0xff) << 56);
        put(page, task(vcpu), low);
        put(page, task(vcpu) + 8, base >> 32);
    }
}

fn put(page: &mut [u64; WORDS], selector: u16, descriptor: u64) {
    if let Some(slot) = page.get_mut(usize::from(selector - FIRST) / 8) {
        *slot = descriptor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> [u64; WORDS] {
        let mut page = [0; WORDS];
        fill(&mut page, 128, |vcpu| {
            0xffff_8280_0020_1f00 + u64::from(vcpu) * 0x8000
        });
        page
    }

    fn at(page: &[u64; WORDS], selector: u16) -> u64 {
        page[usize::from(selector - FIRST) / 8]
    }

    #[test]
    fn each_segment_is_of_the_ring_that_its_selector_asks_for() {
        let page = filled();
        for (selector, _) in FLAT {
            let descriptor = at(&page, selector);
            assert_eq!(
                descriptor >> 45 & 3,
                u64::from(selector & 3),
                "{selector:#x}"
            );
            assert_eq!(descriptor >> 47 & 1, 1, "{selector:#x} is present");
            assert_eq!(descriptor >> 44 & 1, 1, "{selector:#x} is code or data");
        }
    }

    #[test]
    fn code_of_64_bits_has_l_and_not_d() {
        let page = filled();
        for selector in [KERNEL_CS, MONITOR_CS, USER_CS64] {
            assert_eq!(at(&page, selector) >> 53 & 3, 1, "{selector:#x}");
        }
        assert_eq!(at(&page, USER_CS32) >> 53 & 3, 2);
    }

    #[test]
    fn a_task_segment_points_at_its_task() {
        let page = filled();
        let low = at(&page, task(127));
        let high = at(&page, task(127) + 8);
        let base = (low >> 16 & 0xff_ffff) | (low >> 56 << 24) | (high << 32);
        assert_eq!(base, 0xffff_8280_0020_1f00 + 127 * 0x8000);
        assert_eq!(low & 0xffff, 103);
        assert_eq!(low >> 40 & 0xff, 0x89);
    }

    #[test]
    fn what_the_fixed_abi_says_is_there() {
        assert_eq!(USER_CS32, cantle_abi::pv::FLAT_RING3_CS32);
        assert_eq!(USER_DS, cantle_abi::pv::FLAT_RING3_DS32);
        assert_eq!(SEEN_USER_CS64, u64::from(cantle_abi::pv::FLAT_RING3_CS64));
        assert_eq!(SEEN_KERNEL_CS | 1, u64::from(KERNEL_CS));
    }
}
