//! Big-endian fields of a block of bytes.

/// The bytes at `at`, or zeroes where the block ends before.
pub(crate) fn get<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let end = at.saturating_add(N);
    block
        .get(at..end)
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or([0; N])
}

/// Sets the bytes at `at`; nothing where the block ends before.
pub(crate) fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    let end = at.saturating_add(bytes.len());
    if let Some(to) = block.get_mut(at..end) {
        to.copy_from_slice(bytes);
    }
}

pub(crate) fn be16(block: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(get(block, at))
}

pub(crate) fn be32(block: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(get(block, at))
}

pub(crate) fn be64(block: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(get(block, at))
}

/// One's complement of the sum of all bytes, those of the checksum at `at` not counted.
pub(crate) fn checksum(block: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u32, |sum, &byte| sum.wrapping_add(byte.into()))
    };
    !sum(block).wrapping_sub(sum(&get::<4>(block, at)))
}
