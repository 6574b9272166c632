//! Where things lie in a guest's physical address space.
//!
//! ```text
//! 0            ┌──────────────────────────────────────────────┐
//!              │ RAM: kernel at its own addresses, behind it  │
//!              │ start_info, modules, memory map, command line│
//!              │ …                                            │
//!              │ initrd, page-aligned, as high as it can be   │
//! top - 64 KiB │ ACPI tables                                  │
//! top          ├──────────────────────────────────────────────┤  top = min(ram, 3 GiB)
//!              │ hole: LAPIC, special pages, KVM's own pages  │
//! 4 GiB        ├──────────────────────────────────────────────┤
//!              │ the rest of RAM                              │
//!              └──────────────────────────────────────────────┘
//! ```

use cantle_abi::start_info::{
    HvmMemmapTableEntry, XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RAM,
    XEN_HVM_MEMMAP_TYPE_RESERVED,
};
use cantle_abi::{Gfn, PAGE_SHIFT, PAGE_SIZE};

/// Where low RAM ends at the latest and the hole below 4 GiB begins, in bytes.
pub const LOW_RAM_LIMIT: u64 = 0xc000_0000;

/// Where RAM goes on above the hole.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// The first of the special pages (xenstore's ring, the console's ring). They are not RAM: whoever builds the
/// guest's memory backs them separately.
pub const SPECIAL_GFN: Gfn = Gfn(0xf_eff8);

/// How many special pages there are; they end at 0xff00_0000.
pub const SPECIAL_PAGES: usize = 8;

/// The frame of xenstore's ring (`HVM_PARAM_STORE_PFN`).
pub const STORE_GFN: Gfn = Gfn(SPECIAL_GFN.0 + 4);

/// The frame of the console's ring (`HVM_PARAM_CONSOLE_PFN`).
pub const CONSOLE_GFN: Gfn = Gfn(SPECIAL_GFN.0 + 7);

/// Bytes at the top of low RAM that hold the ACPI tables.
pub const ACPI_SIZE: u64 = 64 << 10;

/// The least RAM that a guest may have, in bytes.
pub const MIN_RAM: u64 = 1 << 20;

/// Where low RAM ends for a guest of `ram` bytes; whole pages.
#[must_use]
pub const fn low_ram_end(ram: u64) -> u64 {
    let whole = ram & !(PAGE_SIZE as u64 - 1);
    if whole < LOW_RAM_LIMIT {
        whole
    } else {
        LOW_RAM_LIMIT
    }
}

/// Bytes of RAM above 4 GiB for a guest of `ram` bytes.
#[must_use]
pub const fn high_ram_size(ram: u64) -> u64 {
    (ram & !(PAGE_SIZE as u64 - 1)) - low_ram_end(ram)
}

/// Where the ACPI tables begin for a guest of `ram` bytes: the RSDP's address.
#[must_use]
pub const fn acpi_start(ram: u64) -> u64 {
    low_ram_end(ram).saturating_sub(ACPI_SIZE)
}

/// The ranges of RAM of a guest of `ram` bytes, as guest-physical start and length in bytes: one, or two when it
/// exceeds [`LOW_RAM_LIMIT`]. The special pages are not among them.
#[must_use]
pub fn ram_ranges(ram: u64) -> Vec<(u64, u64)> {
    let mut ranges = vec![(0, low_ram_end(ram))];
    let high = high_ram_size(ram);
    if high > 0 {
        ranges.push((HIGH_RAM_START, high));
    }
    ranges
}

/// The memory map that a guest of `ram` bytes is given in its start info and by `XENMEM_memory_map`: sorted,
/// without overlap. `ram` is at least [`MIN_RAM`].
#[must_use]
pub fn memory_map(ram: u64) -> Vec<HvmMemmapTableEntry> {
    let entry = |addr, size, kind| HvmMemmapTableEntry {
        addr,
        size,
        kind,
        reserved: 0,
    };
    let acpi = acpi_start(ram);
    let mut map = vec![
        entry(0, acpi, XEN_HVM_MEMMAP_TYPE_RAM),
        entry(acpi, low_ram_end(ram) - acpi, XEN_HVM_MEMMAP_TYPE_ACPI),
        entry(
            SPECIAL_GFN.0 << PAGE_SHIFT,
            (SPECIAL_PAGES * PAGE_SIZE) as u64,
            XEN_HVM_MEMMAP_TYPE_RESERVED,
        ),
    ];
    let high = high_ram_size(ram);
    if high > 0 {
        map.push(entry(HIGH_RAM_START, high, XEN_HVM_MEMMAP_TYPE_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn small_guest_has_one_range() {
        assert_eq!(ram_ranges(512 << 20), [(0, 512 << 20)]);
    }

    #[test]
    fn ram_over_three_gib_continues_above_four() {
        assert_eq!(ram_ranges(5 * GIB), [(0, 3 * GIB), (4 * GIB, 2 * GIB)]);
    }

    #[test]
    fn memory_map_is_sorted_disjoint_and_accounts_for_all_ram() {
        for ram in [
            MIN_RAM,
            64 << 20,
            3 * GIB - 4096,
            3 * GIB,
            3 * GIB + 4096,
            16 * GIB,
        ] {
            let map = memory_map(ram);
            for pair in map.windows(2) {
                assert!(pair[0].addr + pair[0].size <= pair[1].addr, "{map:x?}");
            }
            let usable: u64 = map
                .iter()
                .filter(|e| e.kind != XEN_HVM_MEMMAP_TYPE_RESERVED)
                .map(|e| e.size)
                .sum();
            assert_eq!(usable, ram);
        }
    }

    #[test]
    fn special_pages_hold_both_rings_and_end_at_the_firmware_hole() {
        let end = SPECIAL_GFN.0 + SPECIAL_PAGES as u64;
        assert_eq!(end << PAGE_SHIFT, 0xff00_0000);
        for gfn in [STORE_GFN, CONSOLE_GFN] {
            assert!((SPECIAL_GFN.0..end).contains(&gfn.0));
        }
    }
}
