//! The block allocation table: for each block, in which sector of the file it begins.

use std::collections::BTreeSet;
use std::io::Result;

use cantle_image::Storage;

use crate::bytes::be32;

/// The entry of a block that is not there.
pub(crate) const UNUSED: u32 = u32::MAX;
/// How many entries a sector of the table has.
const PER_SECTOR: usize = 128;

/// The table, all of it in memory, and which of its sectors the medium does not have yet.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// In whole sectors: what is behind the table in its last sector is kept.
    entries: Vec<u32>,
    /// How many blocks the disk has.
    blocks: usize,
    dirty: BTreeSet<usize>,
    /// How many entries were set since the table last left.
    changes: usize,
}

impl Table {
    /// Reads the entries of so many blocks. The caller has checked that they are in the file.
    pub(crate) fn read(storage: &dyn Storage, offset: u64, blocks: u32) -> Result<Self> {
        let blocks = usize::try_from(blocks).unwrap_or(0);
        let mut bytes = vec![0; blocks.next_multiple_of(PER_SECTOR) * 4];
        storage.read_at(offset, &mut bytes)?;
        let entries = bytes.chunks_exact(4).map(|word| be32(word, 0));
        Ok(Self {
            entries: entries.collect(),
            blocks,
            ..Self::default()
        })
    }

    /// Where each block begins.
    pub(crate) fn blocks(&self) -> &[u32] {
        self.entries.get(..self.blocks).unwrap_or_default()
    }

    /// In which sector of the file a block begins; [`UNUSED`] too where there is no such block.
    pub(crate) fn get(&self, block: u32) -> u32 {
        let index = usize::try_from(block).unwrap_or(usize::MAX);
        self.blocks().get(index).copied().unwrap_or(UNUSED)
    }

    pub(crate) fn set(&mut self, block: u32, sector: u32) {
        let index = usize::try_from(block).unwrap_or(usize::MAX);
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = sector;
            self.dirty.insert(index / PER_SECTOR);
            self.changes += 1;
        }
    }

    /// How many entries wait to be written.
    pub(crate) fn changes(&self) -> usize {
        self.changes
    }

    /// The table's sectors that wait to be written, by their number in it.
    pub(crate) fn leave(&mut self) -> Vec<(usize, Vec<u8>)> {
        self.changes = 0;
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .map(|sector| (sector, self.sector(sector)))
            .collect()
    }

    /// Those that left are not on the medium.
    pub(crate) fn failed(&mut self, sectors: impl Iterator<Item = usize>) {
        self.dirty.extend(sectors);
        self.changes += 1;
    }

    fn sector(&self, sector: usize) -> Vec<u8> {
        let entries = self
            .entries
            .iter()
            .skip(sector * PER_SECTOR)
            .take(PER_SECTOR);
        entries.flat_map(|entry| entry.to_be_bytes()).collect()
    }

    /// A table for more blocks, of which the file has none yet: `used` entries of this one count. All its bytes.
    pub(crate) fn enlarged(&self, used: u32, entries: u32) -> Vec<u8> {
        let used = usize::try_from(used).unwrap_or(0);
        let entries = usize::try_from(entries)
            .unwrap_or(0)
            .next_multiple_of(PER_SECTOR);
        let old = self.entries.iter().take(used).copied();
        let all = old.chain(std::iter::repeat(UNUSED)).take(entries);
        all.flat_map(u32::to_be_bytes).collect()
    }
}
