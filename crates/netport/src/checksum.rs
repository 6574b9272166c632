//! The internet checksum: completing one that was left blank, and starting one that a sender forgot.

use crate::headers::{IpVersion, Protocol, Transport};

const BLOCK: usize = 64;

/// Sums 16-bit words in network order, the last one padded with a zero byte. Folded, not inverted; 0 for zero bytes only.
fn sum(bytes: &[u8]) -> u16 {
    // The sum does not mind the byte order (RFC 1071, 1.2 B), so words are added as they lie in memory, 32 bits of them into 64, in lanes
    // that the compiler makes vectors of. A lane has room for 2^31 blocks.
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    let mut lanes = [0_u64; BLOCK / 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane += halved(u64::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().map(|lane| halved(*lane)).sum();
    let (words, tail) = rest.as_chunks::<8>();
    total += words
        .iter()
        .map(|word| halved(u64::from_ne_bytes(*word)))
        .sum::<u64>();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    total += halved(u64::from_ne_bytes(last));
    u16::from_be(fold(total))
}

/// The sum of a number's two halves.
const fn halved(total: u64) -> u64 {
    (total & 0xffff_ffff) + (total >> 32)
}

/// Folds a sum to 16 bits, carries added back in.
fn fold(total: u64) -> u16 {
    let total = halved(halved(total));
    // 32 bits now: twice more, and once for the last carry.
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    u16::try_from(total).unwrap_or(u16::MAX)
}

/// A one's complement sum of bytes that lie in several pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    total: u64,
    /// An odd number of bytes so far: the next one is a word's second.
    odd: bool,
}

impl Sum {
    /// Adds bytes that follow those before, however many those were.
    pub fn add(&mut self, bytes: &[u8]) {
        let sum = sum(bytes);
        // Words at odd places: their sum is that of the even ones with its bytes swapped (RFC 1071, 1.2 B).
        let sum = if self.odd { sum.swap_bytes() } else { sum };
        self.add_word(sum);
        self.odd ^= !bytes.len().is_multiple_of(2);
    }

    /// Adds a number, as a word of its own.
    pub fn add_word(&mut self, word: u16) {
        self.total = self.total.wrapping_add(u64::from(word));
    }

    /// The sum, not inverted; 0 where there were only zero bytes.
    #[must_use]
    pub fn value(&self) -> u16 {
        fold(self.total)
    }

    /// The sum as it goes into a transport header: inverted, and never 0, which UDP has for "no checksum". (For TCP, both
    /// forms of zero mean the same.)
    #[must_use]
    pub fn field(&self) -> u16 {
        match !self.value() {
            0 => 0xffff,
            value => value,
        }
    }
}

/// Sums the pieces of a whole, in order; each may be of any length.
#[must_use]
pub fn sum_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Sum {
    let mut sum = Sum::default();
    for part in parts {
        sum.add(part);
    }
    sum
}

/// Completes a blank checksum: sums from `start` to the end, the field (at `start + offset`) included, and writes it there.
/// False, and nothing done, where the field is not within the frame.
#[must_use]
pub fn complete(frame: &mut [u8], start: u16, offset: u16) -> bool {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let Some(covered) = frame.get(start..) else {
        return false;
    };
    let value = sum_parts([covered]).field();
    put(frame, start + offset, value)
}

/// The sum of the pseudo-header of a transport header and payload of `len` bytes: what a blank checksum begins with. `headers` is the frame's
/// beginning. `None` where its addresses are not within `headers`.
#[must_use]
pub fn pseudo(headers: &[u8], transport: &Transport, len: usize) -> Option<Sum> {
    let ip = usize::from(transport.ip);
    let addresses = match transport.version {
        IpVersion::V4 => headers.get(ip + 12..ip + 20),
        IpVersion::V6 => headers.get(ip + 8..ip + 40),
    }?;
    let mut sum = sum_parts([addresses]);
    sum.add_word(match transport.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    });
    sum.add_word(fold(len as u64));
    Some(sum)
}

/// Writes the pseudo-header's sum into the checksum field: what a blank checksum begins with. `headers` is the frame's
/// beginning, `frame_len` the whole frame's length. False, and nothing done, where the field is not within `headers`.
#[must_use]
pub fn begin(headers: &mut [u8], transport: &Transport, frame_len: usize) -> bool {
    let start = usize::from(transport.start);
    let Some(sum) = pseudo(headers, transport, frame_len.saturating_sub(start)) else {
        return false;
    };
    let at = start + usize::from(transport.checksum_offset());
    put(headers, at, sum.value())
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> bool {
    match bytes.get_mut(at..at + 2) {
        Some(field) => {
            field.copy_from_slice(&value.to_be_bytes());
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests;
