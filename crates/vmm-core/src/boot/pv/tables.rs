//! Page tables, made in the host's memory and written out when they are complete.

use std::collections::HashMap;

use cantle_abi::{PAGE_SHIFT, PAGE_SIZE};

/// Present.
pub(super) const P: u64 = 1 << 0;
/// Writable.
pub(super) const RW: u64 = 1 << 1;
/// For user mode.
pub(super) const U: u64 = 1 << 2;
/// Accessed.
pub(super) const A: u64 = 1 << 5;
/// Dirty; of an entry of the last level.
pub(super) const D: u64 = 1 << 6;
/// A large page.
pub(super) const PS: u64 = 1 << 7;
/// No execution.
pub(super) const NX: u64 = 1 << 63;

/// Entries of a table.
const ENTRIES: usize = PAGE_SIZE / 8;
/// Bits of an address that an entry of the last level maps by.
const SHIFT: u32 = PAGE_SHIFT;

/// The index of an address in a table of a level, 1 being the last.
fn index(address: u64, level: u32) -> usize {
    let bits = address >> (SHIFT + 9 * (level - 1)) & (ENTRIES as u64 - 1);
    // Below 512.
    usize::try_from(bits).unwrap_or(0)
}

/// How many tables of a level a range of addresses takes. `end` is not among them; the range is not empty.
pub(super) const fn tables_for(start: u64, end: u64, level: u32) -> u64 {
    let shift = SHIFT + 9 * level;
    ((end - 1) >> shift) - (start >> shift) + 1
}

/// How many tables of levels 1 to 3 a range of addresses takes.
pub(super) const fn tables_below_top(start: u64, end: u64) -> u64 {
    tables_for(start, end, 1) + tables_for(start, end, 2) + tables_for(start, end, 3)
}

/// A tree of tables, of which the first is the top. Where each will be is a matter of its number.
pub(super) struct PageTables<F> {
    tables: Vec<[u64; ENTRIES]>,
    /// Which table the entry of a table leads to.
    children: HashMap<(usize, usize), usize>,
    frame_of: F,
    /// The flags of entries that lead to tables.
    inner: u64,
}

impl<F: Fn(u64) -> u64> PageTables<F> {
    /// Of an empty top. `frame_of` tells the frame of a table by its number.
    pub(super) fn new(frame_of: F, inner: u64) -> Self {
        Self {
            tables: vec![[0; ENTRIES]],
            children: HashMap::new(),
            frame_of,
            inner,
        }
    }

    /// Tables that there are.
    pub(super) fn len(&self) -> u64 {
        self.tables.len() as u64
    }

    /// The tables with their numbers.
    pub(super) fn emit(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        (0..).zip(&self.tables).map(|(number, table)| {
            let bytes = table.iter().flat_map(|entry| entry.to_le_bytes());
            (number, bytes.collect())
        })
    }

    /// Sets an address's entry in its table of a level (1: a page, 2: a large page or a table of pages), over whatever was there.
    pub(super) fn set(&mut self, address: u64, level: u32, entry: u64) {
        let mut table = 0_usize;
        for above in (level + 1..=4).rev() {
            table = self.below(table, index(address, above));
        }
        self.put(table, index(address, level), entry);
    }

    /// Maps a page.
    pub(super) fn map(&mut self, address: u64, frame: u64, flags: u64) {
        self.set(address, 1, frame << SHIFT | flags);
    }

    /// The number of the table that an entry leads to, which is made where there is none.
    fn below(&mut self, table: usize, index: usize) -> usize {
        if let Some(number) = self.children.get(&(table, index)) {
            return *number;
        }
        let number = self.tables.len();
        let frame = (self.frame_of)(number as u64);
        self.tables.push([0; ENTRIES]);
        self.children.insert((table, index), number);
        self.put(table, index, frame << SHIFT | self.inner);
        number
    }

    fn put(&mut self, table: usize, index: usize, entry: u64) {
        if let Some(place) = self.tables.get_mut(table).and_then(|t| t.get_mut(index)) {
            *place = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_counted_as_they_are_made() {
        for (start, end) in [
            (0x0, 0x1000),
            (0x1f_f000, 0x20_1000),
            (0x3fff_f000, 0x4000_1000),
            (0x7f_ffff_f000, 0x80_0000_1000),
            (0xffff_ffff_8000_0000, 0xffff_ffff_8140_0000),
        ] {
            let mut tables = PageTables::new(|number| number + 100, P);
            for address in (start..end).step_by(PAGE_SIZE) {
                tables.map(address, 7, P);
            }
            assert_eq!(tables.len(), 1 + tables_below_top(start, end), "{start:#x}");
        }
    }
}
