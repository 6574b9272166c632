//! The page through which a kernel makes hypercalls: 32 bytes for each number, to be called.

use cantle_abi::xen::{__HYPERVISOR_iret, HYPERCALL_PAGE_ENTRIES};

/// Bytes of the page, and of one entry.
const PAGE: usize = 4096;
const ENTRY: usize = 32;

/// An entry: `push %rcx; push %r11; mov $number,%eax; syscall; pop %r11; pop %rcx; ret`. `syscall` itself loses rcx and r11, which the guest
/// may count on.
const CALL: [u8; 14] = [
    0x51, 0x41, 0x53, 0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3,
];
/// `iret`'s entry, which is jumped to and does not return: `push %rcx; push %r11; push %rax; mov $23,%eax; syscall`. What it pushes
/// is the start of `struct iret_context`.
const IRET: [u8; 11] = [0x51, 0x41, 0x53, 0x50, 0xb8, 0, 0, 0, 0, 0x0f, 0x05];

/// The page's contents. What is no entry is `int3`.
#[must_use]
pub const fn contents() -> [u8; PAGE] {
    let mut page = [0xcc; PAGE];
    let mut number = 0;
    while number < HYPERCALL_PAGE_ENTRIES {
        let at = number as usize * ENTRY;
        if number == __HYPERVISOR_iret {
            put(&mut page, at, &IRET, 5, number);
        } else {
            put(&mut page, at, &CALL, 4, number);
        }
        number += 1;
    }
    page
}

/// Puts one entry at `at`, with the number's lowest byte `operand` bytes in (its others are 0).
const fn put(page: &mut [u8; PAGE], at: usize, code: &[u8], operand: usize, number: u32) {
    let mut index = 0;
    while index < code.len() {
        page[at + index] = code[index];
        index += 1;
    }
    page[at + operand] = number.to_le_bytes()[0];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_rcx_and_r11() {
        let page = contents();
        let at = 29 * ENTRY;
        assert_eq!(
            page[at..at + 15],
            [
                0x51, 0x41, 0x53, 0xb8, 29, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3, 0xcc
            ]
        );
    }

    #[test]
    fn iret_pushes_what_its_context_begins_with() {
        let page = contents();
        let at = 23 * ENTRY;
        assert_eq!(
            page[at..at + 12],
            [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05, 0xcc]
        );
    }

    #[test]
    fn what_has_no_number_traps() {
        let page = contents();
        assert!(page[64 * ENTRY..].iter().all(|&b| b == 0xcc));
    }
}
