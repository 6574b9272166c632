//! The grain tables that are in memory.
//!
//! At most [`MAX_CACHED`] (8 MiB; 128 GiB of disk in grains of 64 KiB) stay; more than [`MAX_DIRTY`] that differ from the medium
//! are not let come together.

use std::collections::HashMap;
use std::io::Result;

use cantle_image::Storage;

use super::header::{TABLE_ENTRIES, le32};
use super::layout::Layout;

const MAX_CACHED: usize = 4096;
pub(crate) const MAX_DIRTY: usize = 1024;
const ENTRIES: usize = TABLE_ENTRIES as usize;

pub(crate) type Entries = [u32; ENTRIES];

#[derive(Debug)]
struct Table {
    entries: Box<Entries>,
    /// Differs from what was last given out to be written.
    dirty: bool,
    /// Is being written.
    writing: bool,
    used: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Tables {
    cached: HashMap<u32, Table>,
    clock: u64,
    dirty: usize,
}

impl Tables {
    /// The entries of the table with this number in the directory, or `None` where it is not there.
    pub(crate) fn get(
        &mut self,
        number: u32,
        layout: &Layout,
        storage: &impl Storage,
    ) -> Result<Option<&Entries>> {
        let sector = at(&layout.tables, number);
        if sector == 0 {
            return Ok(None);
        }
        self.clock += 1;
        if !self.cached.contains_key(&number) {
            self.make_room();
            let table = Table {
                entries: read(storage, sector)?,
                dirty: false,
                writing: false,
                used: 0,
            };
            self.cached.insert(number, table);
        }
        Ok(self.cached.get_mut(&number).map(|table| {
            table.used = self.clock;
            &*table.entries
        }))
    }

    /// Changes an entry of a table that [`get`](Self::get) has just given.
    pub(crate) fn set(&mut self, number: u32, index: usize, value: u32) {
        let Some(table) = self.cached.get_mut(&number) else {
            return;
        };
        if let Some(entry) = table.entries.get_mut(index) {
            *entry = value;
            if !table.dirty {
                table.dirty = true;
                self.dirty += 1;
            }
        }
    }

    pub(crate) fn dirty(&self) -> usize {
        self.dirty
    }

    /// Copies of all that is dirty, by number. They stay here until [`written`](Self::written) says what became of them.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u32, Box<Entries>)> {
        let mut taken = Vec::with_capacity(self.dirty);
        for (number, table) in &mut self.cached {
            if std::mem::take(&mut table.dirty) {
                table.writing = true;
                taken.push((*number, table.entries.clone()));
            }
        }
        self.dirty = 0;
        taken.sort_unstable_by_key(|(number, _)| *number);
        taken
    }

    pub(crate) fn written(&mut self, taken: &[(u32, Box<Entries>)], ok: bool) {
        for (number, _) in taken {
            let Some(table) = self.cached.get_mut(number) else {
                continue;
            };
            table.writing = false;
            if !ok && !table.dirty {
                table.dirty = true;
                self.dirty += 1;
            }
        }
    }

    /// Lets go of the quarter of the clean tables that was longest not used, where the cache is full.
    fn make_room(&mut self) {
        if self.cached.len() < MAX_CACHED {
            return;
        }
        let clean = |table: &Table| !table.dirty && !table.writing;
        let mut ages: Vec<u64> = self
            .cached
            .values()
            .filter(|table| clean(table))
            .map(|table| table.used)
            .collect();
        ages.sort_unstable();
        let Some(oldest) = ages.get(ages.len() / 4).copied() else {
            return;
        };
        self.cached
            .retain(|_, table| !clean(table) || table.used > oldest);
    }
}

/// A number of a directory; 0 beyond its end.
pub(crate) fn at(directory: &[u32], number: u32) -> u32 {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    directory.get(index).copied().unwrap_or(0)
}

pub(crate) fn read(storage: &impl Storage, sector: u32) -> Result<Box<Entries>> {
    let mut bytes = [0; ENTRIES * 4];
    storage.read_at(u64::from(sector) * 512, &mut bytes)?;
    let mut entries = Box::new([0; ENTRIES]);
    for (entry, bytes) in entries.iter_mut().zip(bytes.chunks_exact(4)) {
        *entry = le32(bytes, 0);
    }
    Ok(entries)
}

pub(crate) fn write(storage: &impl Storage, sector: u32, entries: &Entries) -> Result<()> {
    let mut bytes = [0; ENTRIES * 4];
    for (to, entry) in bytes.chunks_exact_mut(4).zip(entries) {
        to.copy_from_slice(&entry.to_le_bytes());
    }
    storage.write_at(u64::from(sector) * 512, &bytes)
}
