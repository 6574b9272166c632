//! The internet checksum: completing one that was left blank, and starting one that a sender forgot.

use crate::headers::{IpVersion, Protocol, Transport};

/// Sums 16-bit words in network order, the last one padded with a zero byte. Not folded, not inverted.
fn sum(bytes: &[u8]) -> u64 {
    // Two words at a time: the carries are folded in at the end (RFC 1071).
    let (chunks, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = chunks
        .iter()
        .map(|chunk| u64::from(u32::from_be_bytes(*chunk)))
        .sum();
    for (at, byte) in rest.iter().enumerate() {
        total += u64::from(*byte) << (24 - 8 * at);
    }
    total
}

/// Folds a sum to 16 bits, carries added back in.
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    u16::try_from(total).unwrap_or(0)
}

/// Completes a blank checksum: sums from `start` to the end, the field (at `start + offset`) included, and writes it there.
/// False, and nothing done, where the field is not within the frame.
#[must_use]
pub fn complete(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let Some(covered) = frame.get(start..) else {
        return false;
    };
    let value = !fold(sum(covered));
    // UDP says "no checksum" by zero, and writes a zero as its other form; for TCP both forms mean the same.
    let value = if value == 0 { 0xffff } else { value };
    let at = start + offset;
    match frame.get_mut(at..at + 2) {
        Some(field) => {
            field.copy_from_slice(&value.to_be_bytes());
            true
        }
        None => false,
    }
}

/// Writes the pseudo-header's sum into the checksum field: what a blank checksum begins with. `headers` is the frame's
/// beginning, `frame_len` the whole frame's length. False, and nothing done, where the field is not within `headers`.
#[must_use]
pub fn begin(headers: &mut [u8], transport: &Transport, frame_len: usize) -> bool {
    let ip = usize::from(transport.ip);
    let addresses = match transport.version {
        IpVersion::V4 => headers.get(ip + 12..ip + 20),
        IpVersion::V6 => headers.get(ip + 8..ip + 40),
    };
    let Some(addresses) = addresses else {
        return false;
    };
    let protocol: u64 = match transport.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let start = usize::from(transport.start);
    let len = frame_len.saturating_sub(start) as u64;
    let value = fold(sum(addresses) + protocol + len);
    let at = start + usize::from(transport.checksum_offset());
    match headers.get_mut(at..at + 2) {
        Some(field) => {
            field.copy_from_slice(&value.to_be_bytes());
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 as it is written, byte by byte.
    fn plain(bytes: &[u8]) -> u16 {
        let mut total = 0_u32;
        for (at, byte) in bytes.iter().enumerate() {
            total += if at % 2 == 0 {
                u32::from(*byte) << 8
            } else {
                u32::from(*byte)
            };
            total = (total & 0xffff) + (total >> 16);
        }
        u16::try_from(total).unwrap()
    }

    proptest! {
        #[test]
        fn sums_agree_with_the_plain_way(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let (ours, theirs) = (fold(sum(&bytes)), plain(&bytes));
            // The two forms of zero differ only for all-zero input, where both give 0.
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn a_completed_field_holds_the_sum_of_what_was_there(
            mut frame in proptest::collection::vec(any::<u8>(), 40..200),
            start in 0_u16..20,
            offset in 0_u16..18,
        ) {
            let expected = match !plain(&frame[usize::from(start)..]) {
                0 => 0xffff,
                sum => sum,
            };
            let mut model = frame.clone();
            let field = usize::from(start + offset);
            model[field..field + 2].copy_from_slice(&expected.to_be_bytes());
            prop_assert!(complete(&mut frame, start, offset));
            prop_assert_eq!(frame, model);
        }
    }

    #[test]
    fn a_field_outside_the_frame_is_refused() {
        let mut frame = [1_u8; 20];
        assert!(!complete(&mut frame, 21, 0));
        assert!(!complete(&mut frame, 10, 9));
        assert!(!complete(&mut frame, u16::MAX, u16::MAX));
        assert_eq!(frame, [1_u8; 20]);
    }
}
