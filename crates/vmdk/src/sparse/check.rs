//! Checking an extent's tables against the file, each other and themselves; and repairing them.

use std::io::Result;
use std::sync::PoisonError;

use cantle_image::Storage;

use super::header::TABLE_ENTRIES;
use super::layout::ADDRESSABLE;
use super::tables::{self, Entries};
use super::{Fault, Sparse, State};
use crate::Report;
use crate::punch::punch;

impl<S: Storage> Sparse<S> {
    /// Looks at every table. One bit of memory for each grain that the file has room for, up to 64 MiB.
    pub(crate) fn check(&self) -> Result<Report> {
        let _no_flush = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        self.scan(&state, false).map(|(report, _)| report)
    }

    /// Checks, and repairs what can be: afterwards all entries name grains that are there, tables equal their copies, and the file
    /// ends with its last grain. What was found is reported, not what is left.
    pub(crate) fn repair(&self) -> Result<Report> {
        let _alone = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        let (report, used) = self.scan(&state, true)?;
        // Before anything that only an old copy named goes.
        self.storage.sync()?;
        let grain = self.grain_bytes();
        let first = self.layout.data_start() / self.layout.header.grain;
        let end = used.last().map_or(first, |last| last + 1).max(first);
        if end * grain < state.len {
            self.storage.set_len(end * grain)?;
        }
        for slot in first..end {
            if !used.contains(slot) {
                punch(&self.storage, slot * grain, grain)?;
            }
        }
        self.storage.sync()?;
        *state = State::of(&self.storage, &self.layout)?;
        Ok(report)
    }

    fn scan(&self, state: &State, fix: bool) -> Result<(Report, Slots)> {
        let file = (state.len / 512).min(ADDRESSABLE);
        let grain = self.layout.header.grain;
        let mut report = Report::default();
        let mut used = Slots::new(file.div_ceil(grain));
        for (number, table) in (0u32..).zip(&self.layout.tables) {
            if *table == 0 {
                continue;
            }
            let found = tables::read(&self.storage, *table)?;
            let copy = match tables::at(&self.layout.copies, number) {
                0 => None,
                sector => Some((sector, tables::read(&self.storage, sector)?)),
            };
            let first = u64::from(number) * u64::from(TABLE_ENTRIES);
            let other = copy.as_ref().map(|(_, entries)| &**entries);
            let right = self.right(first, &found, other, file, &mut report);
            for (at, entry) in (first..).zip(right.iter()) {
                self.account(at, *entry, &mut used, &mut report);
            }
            report.unequal_tables += u64::from(other.is_some_and(|copy| *copy != *found));
            if fix {
                if let Some((sector, entries)) = copy
                    && entries != right
                {
                    tables::write(&self.storage, sector, &right)?;
                }
                if found != right {
                    tables::write(&self.storage, *table, &right)?;
                }
            }
        }
        if !self.layout.header.compressed {
            let first = self.layout.data_start() / grain;
            report.leaked = (first..file / grain)
                .filter(|slot| !used.contains(*slot))
                .count() as u64;
        }
        Ok((report, used))
    }

    /// The table as it should be: an entry that cannot be is the copy's, where that can; else nothing.
    fn right(
        &self,
        first: u64,
        found: &Entries,
        copy: Option<&Entries>,
        file: u64,
        report: &mut Report,
    ) -> Box<Entries> {
        let mut right = Box::new(*found);
        for (index, entry) in right.iter_mut().enumerate() {
            let grain = first + index as u64;
            let fault = self.entry_fault(grain, *entry, file);
            match fault {
                None => continue,
                Some(Fault::BeyondEnd) => report.beyond_end += 1,
                Some(Fault::InMetadata) => report.in_metadata += 1,
            }
            let other = copy.and_then(|copy| copy.get(index)).copied().unwrap_or(0);
            let good = self.entry_fault(grain, other, file).is_none();
            *entry = if good { other } else { 0 };
        }
        right
    }

    fn entry_fault(&self, grain: u64, entry: u32, file: u64) -> Option<Fault> {
        let in_disk = grain * self.layout.header.grain < self.layout.header.capacity;
        if entry == 0 || !in_disk || (entry == 1 && self.layout.header.zeroed) {
            return None;
        }
        self.fault(grain, entry.into(), file)
    }

    /// Counts a grain whose entry is not at fault.
    fn account(&self, grain: u64, entry: u32, used: &mut Slots, report: &mut Report) {
        let header = &self.layout.header;
        if entry == 0 || grain * header.grain >= header.capacity {
            return;
        }
        if entry == 1 && header.zeroed {
            report.zeroed += 1;
            return;
        }
        report.allocated += 1;
        if header.compressed {
            return;
        }
        let sector = u64::from(entry);
        let slot = sector / header.grain;
        if sector.is_multiple_of(header.grain) {
            report.shared += u64::from(!used.insert(slot));
        } else {
            // In two places: whether others are there, too, is not known.
            report.misaligned += 1;
            used.insert(slot);
            used.insert(slot + 1);
        }
    }
}

/// The places of a file that grains are in.
struct Slots {
    words: Vec<u64>,
}

impl Slots {
    fn new(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
        Self {
            words: vec![0; words],
        }
    }

    /// Whether it is new.
    fn insert(&mut self, slot: u64) -> bool {
        let index = usize::try_from(slot / 64).unwrap_or(usize::MAX);
        let Some(word) = self.words.get_mut(index) else {
            return true;
        };
        let bit = 1 << (slot % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn contains(&self, slot: u64) -> bool {
        let index = usize::try_from(slot / 64).unwrap_or(usize::MAX);
        self.words
            .get(index)
            .is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    fn last(&self) -> Option<u64> {
        let index = self.words.iter().rposition(|word| *word != 0)?;
        let word = self.words.get(index)?;
        Some(index as u64 * 64 + u64::from(63 - word.leading_zeros()))
    }
}
