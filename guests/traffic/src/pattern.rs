//! The bytes that are sent: each is known from a number, the seed, and from its place.

use std::io::{ErrorKind, Read, Write};

/// The most bytes that are written or read at once: more than the largest packet.
const PIECE: usize = 96 << 10;

/// A step of SplitMix64: a well-mixed number for each number.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills a buffer with what is at this place.
pub(crate) fn fill(buffer: &mut [u8], seed: u64, place: u64) {
    let mut number = place / 8;
    let skip = usize::try_from(place % 8).unwrap_or_default();
    let (first, rest) = buffer.split_at_mut(((8 - skip) % 8).min(buffer.len()));
    if !first.is_empty() {
        let word = mixed(seed.wrapping_add(number)).to_le_bytes();
        for (byte, right) in first.iter_mut().zip(word.iter().skip(skip)) {
            *byte = *right;
        }
        number += 1;
    }
    for (bytes, number) in rest.chunks_mut(8).zip(number..) {
        let word = mixed(seed.wrapping_add(number)).to_le_bytes();
        for (byte, right) in bytes.iter_mut().zip(word) {
            *byte = right;
        }
    }
}

/// The place of the first byte that is not as it has to be.
pub(crate) fn wrong(bytes: &[u8], seed: u64, place: u64) -> Option<u64> {
    let mut right = vec![0; bytes.len()];
    fill(&mut right, seed, place);
    if right == bytes {
        return None;
    }
    let same = right.iter().zip(bytes).take_while(|(a, b)| a == b).count();
    Some(place + same as u64)
}

/// Writes so many bytes, in pieces of all sizes.
pub(crate) fn send(to: &mut impl Write, seed: u64, bytes: u64) -> Result<(), String> {
    let mut place = 0;
    let mut buffer = vec![0; PIECE];
    while place < bytes {
        let piece = size(seed, place).min(usize::try_from(bytes - place).unwrap_or(PIECE));
        let piece = buffer.get_mut(..piece).unwrap_or_default();
        fill(piece, seed, place);
        to.write_all(piece)
            .map_err(|error| format!("sent {place} of {bytes} bytes: {error}"))?;
        place += piece.len() as u64;
    }
    Ok(())
}

/// Reads so many bytes; the place of the first one that is wrong.
pub(crate) fn receive(from: &mut impl Read, seed: u64, bytes: u64) -> Result<Option<u64>, String> {
    let mut place = 0;
    let mut first = None;
    let mut buffer = vec![0; PIECE];
    while place < bytes {
        let most = PIECE.min(usize::try_from(bytes - place).unwrap_or(PIECE));
        let piece = buffer.get_mut(..most).unwrap_or_default();
        let got = match from.read(piece) {
            Ok(0) => {
                return Err(format!(
                    "the connection ended after {place} of {bytes} bytes"
                ));
            }
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(format!("got {place} of {bytes} bytes: {error}")),
        };
        first = first.or_else(|| wrong(piece.get(..got).unwrap_or_default(), seed, place));
        place += got as u64;
    }
    Ok(first)
}

/// How many bytes go at once from this place: few, some, or many.
fn size(seed: u64, place: u64) -> usize {
    let random = mixed(!seed ^ place);
    let most = match random & 3 {
        0 => 64,
        1 => 3000,
        _ => PIECE as u64,
    };
    usize::try_from(1 + (random >> 2) % most).unwrap_or(1)
}
