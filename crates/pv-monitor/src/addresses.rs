//! Which addresses are the guest's.

use crate::hypercall::address_is_canonical;

/// The hypervisor's addresses (`HYPERVISOR_VIRT_START`, `HYPERVISOR_VIRT_END`): slots [`crate::interface::HYPERVISOR_SLOTS`].
const HYPERVISOR: core::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;

/// Whether so many bytes at an address are the guest's to read and write: canonical, in one half of the address space, and none of the
/// hypervisor's. Whether they are mapped is another question.
#[must_use]
pub const fn are_guests(address: u64, bytes: u64) -> bool {
    let Some(last) = address.checked_add(bytes.saturating_sub(1)) else {
        return false;
    };
    address_is_canonical(address)
        && address_is_canonical(last)
        && address >> 63 == last >> 63
        && (last < HYPERVISOR.start || address >= HYPERVISOR.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hypervisors_are_not_the_guests() {
        assert!(are_guests(0xffff_7fff_ffff_ffff - 7 - (0xffff << 48), 8));
        assert!(are_guests(HYPERVISOR.end, 8));
        assert!(are_guests(0xffff_ffff_8100_0000, 4096));
        assert!(are_guests(u64::MAX, 1));
        for address in [
            HYPERVISOR.start,
            HYPERVISOR.end - 8,
            HYPERVISOR.end - 1,
            HYPERVISOR.start - 4,
            0x0000_7fff_ffff_fffc,
            0x0000_8000_0000_0000,
            u64::MAX - 3,
            crate::interface::MONITOR_BASE,
        ] {
            assert!(!are_guests(address, 8), "{address:#x}");
        }
    }
}
