//! Tables in memory: some of them, those that changed until they are written.

use std::collections::HashMap;
use std::io::Result;
use std::ops::Range;

/// A table in memory.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    pub(crate) table: Vec<T>,
    used: u64,
    /// What of it is not in the file yet.
    dirty: Option<Range<usize>>,
    /// It is new: nothing on the medium points to it, and all of it must be there before anything does.
    pub(crate) fresh: bool,
}

impl<T: Copy> Slot<T> {
    /// Changes one entry. Outside of the table, nothing happens.
    pub(crate) fn set(&mut self, index: usize, value: T) {
        if let Some(entry) = self.table.get_mut(index) {
            *entry = value;
            self.touch(index);
        }
    }

    /// Marks one entry as changed.
    pub(crate) fn touch(&mut self, index: usize) {
        self.dirty = Some(match &self.dirty {
            Some(range) => range.start.min(index)..range.end.max(index + 1),
            None => index..index + 1,
        });
    }

    pub(crate) fn get(&self, index: usize) -> Option<T> {
        self.table.get(index).copied()
    }
}

/// So many tables, by where they are in the file.
#[derive(Debug)]
pub(crate) struct Cache<T> {
    slots: HashMap<u64, Slot<T>>,
    limit: usize,
    clock: u64,
    dirty: usize,
}

impl<T: Copy> Cache<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            slots: HashMap::new(),
            limit: limit.max(8),
            clock: 0,
            dirty: 0,
        }
    }

    /// The table at `place`, which is loaded if need be. It is looked at only, see [`change`](Self::change).
    pub(crate) fn get(
        &mut self,
        place: u64,
        load: impl FnOnce() -> Result<Vec<T>>,
    ) -> Result<&mut Slot<T>> {
        self.clock += 1;
        if !self.slots.contains_key(&place) {
            let table = load()?;
            self.make_room();
            self.slots.insert(
                place,
                Slot {
                    table,
                    used: 0,
                    dirty: None,
                    fresh: false,
                },
            );
        }
        let slot = self
            .slots
            .get_mut(&place)
            .ok_or(std::io::ErrorKind::NotFound)?;
        slot.used = self.clock;
        Ok(slot)
    }

    /// Changes a table.
    pub(crate) fn change(
        &mut self,
        place: u64,
        load: impl FnOnce() -> Result<Vec<T>>,
        with: impl FnOnce(&mut Slot<T>),
    ) -> Result<()> {
        let slot = self.get(place, load)?;
        let clean = slot.dirty.is_none();
        with(slot);
        if clean && slot.dirty.is_some() {
            self.dirty += 1;
        }
        Ok(())
    }

    /// A new table, all of which is to be written.
    pub(crate) fn insert(&mut self, place: u64, table: Vec<T>) {
        self.remove(place);
        self.make_room();
        self.clock += 1;
        self.dirty += 1;
        self.slots.insert(
            place,
            Slot {
                dirty: Some(0..table.len()),
                table,
                used: self.clock,
                fresh: true,
            },
        );
    }

    /// Forgets a table, and what of it was not written.
    pub(crate) fn remove(&mut self, place: u64) {
        if let Some(slot) = self.slots.remove(&place)
            && slot.dirty.is_some()
        {
            self.dirty -= 1;
        }
    }

    /// Whether a table is not in the file yet.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty != 0
    }

    /// Whether so many are not in the file that it is time to write them.
    pub(crate) fn is_full(&self) -> bool {
        self.dirty * 4 > self.limit * 3
    }

    /// Gives what changed to `write`, in the order of the places: the new tables, or the others, or both.
    pub(crate) fn write(
        &self,
        fresh: Option<bool>,
        mut write: impl FnMut(u64, &Slot<T>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut places: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| fresh.is_none_or(|fresh| slot.fresh == fresh))
            .filter_map(|(place, slot)| Some((*place, slot, slot.dirty.clone()?)))
            .collect();
        places.sort_unstable_by_key(|(place, ..)| *place);
        places
            .into_iter()
            .try_for_each(|(place, slot, range)| write(place, slot, range))
    }

    /// What [`write`](Self::write) gave is in the file.
    pub(crate) fn written(&mut self, fresh: Option<bool>) {
        for slot in self.slots.values_mut() {
            if fresh.is_none_or(|fresh| slot.fresh == fresh) && slot.dirty.take().is_some() {
                slot.fresh = false;
                self.dirty -= 1;
            }
        }
    }

    /// Forgets the quarter that was not used for the longest time, so that this costs little for each table.
    fn make_room(&mut self) {
        if self.slots.len() < self.limit {
            return;
        }
        let mut clean: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.dirty.is_none())
            .map(|(place, slot)| (slot.used, *place))
            .collect();
        clean.sort_unstable();
        for (_, place) in clean.into_iter().take(self.limit.div_ceil(4)) {
            self.slots.remove(&place);
        }
    }
}
