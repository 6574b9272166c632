//! Sector bitmaps: for each block, which of its sectors are there.

use std::collections::HashMap;
use std::io::Result;

use cantle_image::Storage;

use crate::state::Layout;

/// So many bytes of bitmaps are remembered, those that wait to be written not counted.
const CACHE: u64 = 8 << 20;

/// The bitmaps that are in memory, and which of them the medium does not have yet.
#[derive(Debug, Default)]
pub(crate) struct Bitmaps {
    known: HashMap<u32, Bitmap>,
    len: usize,
    limit: usize,
    lowest_bit_first: bool,
    dirty: usize,
}

/// One block's bitmap: the first sector's bit is the first byte's highest.
#[derive(Debug)]
pub(crate) struct Bitmap {
    bits: Vec<u8>,
    dirty: bool,
    /// On its way to the medium.
    leaving: bool,
}

impl Bitmaps {
    pub(crate) fn new(layout: &Layout) -> Self {
        let limit = CACHE / layout.bitmap_len.max(1);
        Self {
            known: HashMap::new(),
            len: usize::try_from(layout.bitmap_len).unwrap_or(0),
            limit: usize::try_from(limit).unwrap_or(0).max(16),
            lowest_bit_first: layout.lowest_bit_first,
            dirty: 0,
        }
    }

    /// The bitmap of `block`, which is at `at` in the file.
    pub(crate) fn get(
        &mut self,
        storage: &dyn Storage,
        block: u32,
        at: u64,
    ) -> Result<&mut Bitmap> {
        if !self.known.contains_key(&block) {
            let mut bits = vec![0; self.len];
            storage.read_at(at, &mut bits)?;
            if self.lowest_bit_first {
                reverse(&mut bits);
            }
            self.make_room();
            self.known.insert(block, Bitmap::of(bits));
        }
        let empty = || Bitmap::of(Vec::new());
        Ok(self.known.entry(block).or_insert_with(empty))
    }

    /// Remembers the bitmap of a new block, which is on the file as it is given.
    pub(crate) fn insert(&mut self, block: u32, full: bool) {
        self.make_room();
        let byte = if full { 0xff } else { 0 };
        self.known.insert(block, Bitmap::of(vec![byte; self.len]));
    }

    pub(crate) fn forget(&mut self) {
        self.known.clear();
        self.dirty = 0;
    }

    /// Sets bits of a bitmap that is in memory.
    pub(crate) fn set(&mut self, block: u32, from: u64, count: u64) {
        if let Some(bitmap) = self.known.get_mut(&block) {
            bitmap.set(from, count);
            self.dirty += usize::from(!bitmap.dirty);
            bitmap.dirty = true;
        }
    }

    /// How many wait to be written.
    pub(crate) fn dirty(&self) -> usize {
        self.dirty
    }

    /// The bitmaps that wait to be written, as they are to be; until [`arrived`](Self::arrived) they stay in memory.
    pub(crate) fn leave(&mut self) -> Vec<(u32, Vec<u8>)> {
        let mut leaving = Vec::with_capacity(self.dirty);
        if self.dirty == 0 {
            return leaving;
        }
        for (&block, bitmap) in &mut self.known {
            if bitmap.dirty {
                let mut bits = bitmap.bits.clone();
                if self.lowest_bit_first {
                    reverse(&mut bits);
                }
                leaving.push((block, bits));
                bitmap.dirty = false;
                bitmap.leaving = true;
            }
        }
        self.dirty = 0;
        leaving.sort_unstable_by_key(|(block, _)| *block);
        leaving
    }

    /// Those that left are on the medium, or they are not.
    pub(crate) fn arrived(&mut self, blocks: impl Iterator<Item = u32>, safely: bool) {
        for block in blocks {
            if let Some(bitmap) = self.known.get_mut(&block) {
                bitmap.leaving = false;
                if !safely && !bitmap.dirty {
                    bitmap.dirty = true;
                    self.dirty += 1;
                }
            }
        }
    }

    fn make_room(&mut self) {
        if self.known.len() >= self.limit + self.dirty {
            self.known
                .retain(|_, bitmap| bitmap.dirty || bitmap.leaving);
        }
    }
}

impl Bitmap {
    fn of(bits: Vec<u8>) -> Self {
        Self {
            bits,
            dirty: false,
            leaving: false,
        }
    }

    /// Whether the sector `from` is there, and for how many sectors, at most `max`, that is so. At least 1, where `max` is.
    pub(crate) fn run(&self, from: u64, max: u64) -> (bool, u64) {
        let is_set = self.bit(from);
        let same = if is_set { 0xff } else { 0 };
        let mut count = 0;
        while count < max {
            let at = from + count;
            if at.is_multiple_of(8) && self.byte(at / 8) == same {
                count += 8;
            } else if self.bit(at) == is_set {
                count += 1;
            } else {
                break;
            }
        }
        (is_set, count.min(max))
    }

    fn byte(&self, index: u64) -> u8 {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        self.bits.get(index).copied().unwrap_or(0)
    }

    fn bit(&self, sector: u64) -> bool {
        self.byte(sector / 8) & (0x80 >> (sector % 8)) != 0
    }

    fn set(&mut self, from: u64, count: u64) {
        for sector in from..from + count {
            let index = usize::try_from(sector / 8).unwrap_or(usize::MAX);
            if let Some(byte) = self.bits.get_mut(index) {
                *byte |= 0x80 >> (sector % 8);
            }
        }
    }
}

fn reverse(bits: &mut [u8]) {
    for byte in bits {
        *byte = byte.reverse_bits();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_bit_by_bit_and_byte_by_byte() {
        let mut bitmap = Bitmap::of(vec![0; 512]);
        bitmap.set(3, 30);
        assert_eq!(bitmap.run(0, 4096), (false, 3));
        assert_eq!(bitmap.run(3, 4096), (true, 30));
        assert_eq!(bitmap.run(3, 7), (true, 7));
        assert_eq!(bitmap.run(33, 4063), (false, 4063));
        assert_eq!(
            bitmap.bits.get(..5),
            Some(&[0x1f, 0xff, 0xff, 0xff, 0x80][..])
        );
    }
}
