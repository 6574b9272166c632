//! The hypercall page: stubs that a guest calls, one every 32 bytes.

use cantle_abi::PAGE_SIZE;
use cantle_abi::xen::HYPERCALL_PAGE_ENTRIES;

use super::HYPERCALL_PORT;

/// Bytes between two stubs.
const STUB: usize = 32;

/// A page of stubs: `mov $nr, %eax; out %eax, $port; ret`.
pub(crate) fn contents() -> [u8; PAGE_SIZE] {
    // int3 between the stubs.
    let mut page = [0xcc; PAGE_SIZE];
    for (nr, stub) in (0_u8..)
        .zip(page.chunks_exact_mut(STUB))
        .take(HYPERCALL_PAGE_ENTRIES as usize)
    {
        let code = [0xb8, nr, 0, 0, 0, 0xe7, HYPERCALL_PORT, 0xc3];
        for (to, from) in stub.iter_mut().zip(code) {
            *to = from;
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stub_loads_its_own_number() {
        let page = contents();
        assert_eq!(
            page[32 * 17..32 * 17 + 8],
            [0xb8, 17, 0, 0, 0, 0xe7, HYPERCALL_PORT, 0xc3]
        );
        assert_eq!(page[32 * 64], 0xcc);
    }
}
