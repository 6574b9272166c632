//! Counts in a block: of 1 to 64 bits, the low bits of a byte first.

/// The bytes that hold a count of `1 << order` bits, and for counts below a byte how far it is shifted.
fn bytes_of(order: u32, index: usize) -> (std::ops::Range<usize>, u32) {
    if order < 3 {
        let per_byte = 8usize >> order;
        let shift = u32::try_from(index % per_byte).unwrap_or(0) << order;
        (index / per_byte..index / per_byte + 1, shift)
    } else {
        let width = 1usize << (order - 3);
        (
            index.saturating_mul(width)..index.saturating_mul(width).saturating_add(width),
            0,
        )
    }
}

pub(crate) fn count_in(block: &[u8], order: u32, index: usize) -> u64 {
    let (range, shift) = bytes_of(order, index);
    let bytes = block.get(range).unwrap_or_default();
    let value = bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    if order < 3 {
        (value >> shift) & ((1 << (1 << order)) - 1)
    } else {
        value
    }
}

pub(crate) fn set_count_in(
    block: &mut [u8],
    order: u32,
    index: usize,
    count: u64,
) -> Option<std::ops::Range<usize>> {
    let (range, shift) = bytes_of(order, index);
    let bytes = block.get_mut(range.clone())?;
    if order < 3 {
        let mask = ((1u32 << (1 << order)) - 1) << shift;
        let byte = bytes.first_mut()?;
        let value = (u32::from(*byte) & !mask) | ((u32::try_from(count).ok()? << shift) & mask);
        *byte = u8::try_from(value).ok()?;
    } else {
        let all = count.to_be_bytes();
        bytes.copy_from_slice(all.get(8 - bytes.len()..)?);
    }
    Some(range)
}
