//! What is in a sector: who wrote it, where and when, and a filling that follows from that.
//!
//! A sector is 64 words, little-endian: the mark, the disk, the sector's number on it, the batch that wrote it, and sixty words that are
//! computed from those. So every sector says itself what it has to be, and one that is torn, displaced, stale or invented is told from one that
//! was written.

/// Bytes of a sector: what a disk writes whole or not at all.
pub(crate) const SECTOR: usize = 512;

const WORD: usize = 8;
const MARK: u64 = u64::from_le_bytes(*b"durable!");

/// A disk's name as a number (FNV-1a).
pub(crate) fn disk_tag(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A step of SplitMix64: a well-mixed number for each number.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills whole sectors, the first of which has this number, as this batch writes them.
pub(crate) fn fill(buffer: &mut [u8], disk: u64, first: u64, batch: u64) {
    for (bytes, number) in buffer.chunks_exact_mut(SECTOR).zip(first..) {
        for (bytes, word) in bytes.chunks_exact_mut(WORD).zip(words(disk, number, batch)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// What was read as a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sector {
    /// Zeros only.
    Blank,
    /// Whole, and of this batch.
    Of(u64),
    /// Anything else.
    Broken,
}

/// Reads a sector that has this number on this disk.
pub(crate) fn read(bytes: &[u8], disk: u64, number: u64) -> Sector {
    if bytes.iter().all(|byte| *byte == 0) {
        return Sector::Blank;
    }
    let mut found = bytes
        .chunks_exact(WORD)
        .filter_map(|word| word.try_into().ok().map(u64::from_le_bytes));
    let Some(batch) = found.clone().nth(3) else {
        return Sector::Broken;
    };
    if words(disk, number, batch).all(|word| found.next() == Some(word)) {
        Sector::Of(batch)
    } else {
        Sector::Broken
    }
}

fn words(disk: u64, number: u64, batch: u64) -> impl Iterator<Item = u64> {
    let seed = mixed(mixed(disk ^ number) ^ batch);
    let filling = (0..60).map(move |index| mixed(seed.wrapping_add(index)));
    [MARK, disk, number, batch].into_iter().chain(filling)
}
