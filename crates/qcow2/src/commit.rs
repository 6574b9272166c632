//! Bringing what changed to the medium, in an order that survives a crash at any moment.
//!
//! Nothing of an image's tables is written between two commits (data are, into clusters that nothing on the medium points to). A
//! commit then goes in steps, each of which is on the medium before the next begins:
//!
//! 1. New counts that are higher, new L2 tables, a table that moved, at its new place. Nothing points to what is new, and a count that
//!    is too high is a leak. With them go the data.
//! 2. Where the blocks of counts are: the refcount table's entries, or its new place in the header.
//! 3. The entries of L2 tables and of the L1 table, its new place, the disk's size. An entry lies in one sector, and each by itself
//!    takes the image from a valid state to a valid state.
//! 4. Lower counts, for what nothing on the medium points to any more. Only now can such a cluster be given out again. They need not
//!    be on the medium: a count that is too high is a leak.
//!
//! After an error all that was not known to be on the medium is written again by the next commit.

use std::io::Result;
use std::sync::Arc;

use crate::header::{MAX_L1_ENTRIES, max_reftable_entries};
use crate::shape::{invalid, write_table};
use crate::tables::Tables;

/// The header's fields that change.
const SIZE: usize = 24;
const L1_ENTRIES: usize = 36;
const L1_OFFSET: usize = 40;
const REFTABLE_OFFSET: usize = 48;
const REFTABLE_CLUSTERS: usize = 56;
pub(crate) const INCOMPATIBLE: usize = 72;
pub(crate) const AUTOCLEAR: usize = 88;

impl Tables {
    /// Whether there is more to write than data.
    pub(crate) fn is_dirty(&self) -> bool {
        let refs = self.refs.as_ref();
        self.l2.is_dirty()
            || self.l1_dirty.is_some()
            || self.l1_moved.is_some()
            || self.resized
            || !self.freed.is_empty()
            || refs.is_some_and(|refs| refs.blocks.is_dirty() || !refs.changed.is_empty())
    }

    /// All that was written is on the medium.
    pub(crate) fn commit(&mut self) -> Result<()> {
        if self.refs.is_none() || !self.is_dirty() {
            return self.storage.sync();
        }
        self.move_reftable()?;
        self.write_new()?;
        self.storage.sync()?;
        self.new_is_written();
        if self.link_counts()? {
            self.storage.sync()?;
            self.counts_are_linked();
        }
        if self.link_data()? {
            self.storage.sync()?;
            self.data_are_linked();
        }
        self.lower_counts();
        Ok(())
    }

    /// Finds a new place for the refcount table where it has outgrown its own.
    fn move_reftable(&mut self) -> Result<()> {
        let refs = self.refs()?;
        let cluster = refs.shape.cluster();
        let needed = |len: usize| (len as u64 * 8).div_ceil(cluster);
        if needed(refs.table.len()) <= refs.clusters {
            return Ok(());
        }
        let most = max_reftable_entries(cluster) * 8 / cluster;
        let (mut first, mut count);
        loop {
            let len = refs.table.len();
            count = needed(len + len / 2).min(most).max(needed(len));
            first = refs.take_row(count)?;
            // Taking the row may have made blocks, and the table longer.
            if needed(refs.table.len()) <= count {
                break;
            }
            refs.give_back(first, count);
        }
        let old = (refs.offset >> refs.shape.cluster_bits, refs.clusters);
        let entries =
            usize::try_from(count * cluster / 8).map_err(|_| invalid("a table too long"))?;
        refs.table.resize(entries, 0);
        refs.offset = first << refs.shape.cluster_bits;
        refs.clusters = count;
        // One that was moved before and not named by the header since is nowhere on the medium.
        match refs.moved {
            Some(_) => refs.give_back(old.0, old.1),
            None => refs.moved = Some(old),
        }
        Ok(())
    }

    fn write_new(&self) -> Result<()> {
        let Some(refs) = &self.refs else {
            return Ok(());
        };
        let storage = &*self.storage;
        refs.blocks.write(None, |at, slot, range| {
            let bytes = slot.table.get(range.clone()).unwrap_or_default();
            storage.write_at(at + range.start as u64, bytes)
        })?;
        self.l2.write(Some(true), |at, slot, range| {
            write_table(storage, at, &slot.table, range)
        })?;
        if refs.moved.is_some() {
            write_table(storage, refs.offset, &refs.table, 0..refs.table.len())?;
        }
        if self.l1_moved.is_some() {
            write_table(storage, self.l1_offset, &self.l1, 0..self.l1.len())?;
        }
        Ok(())
    }

    fn new_is_written(&mut self) {
        if let Some(refs) = &mut self.refs {
            refs.blocks.written(None);
        }
        self.l2.written(Some(true));
    }

    fn link_counts(&mut self) -> Result<bool> {
        let storage = Arc::clone(&self.storage);
        let refs = self.refs()?;
        let (offset, clusters) = (refs.offset, refs.clusters);
        if refs.moved.is_some() {
            let clusters = u32::try_from(clusters).map_err(|_| invalid("a table too long"))?;
            let mut head = self.head.clone();
            put(&mut head, REFTABLE_OFFSET, &offset.to_be_bytes());
            put(&mut head, REFTABLE_CLUSTERS, &clusters.to_be_bytes());
            storage.write_at(0, &head)?;
            self.head = head;
            return Ok(true);
        }
        for index in &refs.changed {
            write_table(&*storage, offset, &refs.table, *index..*index + 1)?;
        }
        Ok(!refs.changed.is_empty())
    }

    fn counts_are_linked(&mut self) {
        if let Some(refs) = &mut self.refs {
            refs.changed.clear();
            if let Some((first, count)) = refs.moved.take() {
                refs.disclaim(first, count);
                self.freed.push((first, count));
            }
        }
    }

    fn link_data(&mut self) -> Result<bool> {
        let storage = &*self.storage;
        let mut any = self.l2.is_dirty();
        self.l2.write(Some(false), |at, slot, range| {
            write_table(storage, at, &slot.table, range)
        })?;
        if let Some(range) = self.l1_dirty.clone() {
            any = true;
            if self.l1_moved.is_none() {
                write_table(storage, self.l1_offset, &self.l1, range)?;
            }
        }
        if self.l1_moved.is_some() || self.resized {
            any = true;
            let entries = u32::try_from(self.l1.len()).map_err(|_| invalid("a table too long"))?;
            let mut head = self.head.clone();
            put(&mut head, SIZE, &self.size.to_be_bytes());
            put(&mut head, L1_ENTRIES, &entries.to_be_bytes());
            put(&mut head, L1_OFFSET, &self.l1_offset.to_be_bytes());
            storage.write_at(0, &head)?;
            self.head = head;
        }
        Ok(any)
    }

    fn data_are_linked(&mut self) {
        self.l2.written(Some(false));
        self.l1_dirty = None;
        self.resized = false;
        if let Some((first, count)) = self.l1_moved.take() {
            if let Some(refs) = &mut self.refs {
                refs.disclaim(first, count);
            }
            self.freed.push((first, count));
        }
    }

    /// Nothing on the medium points there any more. An error here costs space, no data.
    fn lower_counts(&mut self) {
        let freed = std::mem::take(&mut self.freed);
        let Some(refs) = &mut self.refs else { return };
        if freed.is_empty() {
            return;
        }
        self.inflated = None;
        let bits = refs.shape.cluster_bits;
        let mut holes: Vec<(u64, u64)> = Vec::new();
        for cluster in freed
            .into_iter()
            .flat_map(|(first, count)| first..first + count)
        {
            let lowered = refs.get(cluster).and_then(|count| {
                let count = count.checked_sub(1).ok_or(invalid("a count below zero"))?;
                refs.set(cluster, count).map(|()| count)
            });
            match lowered {
                Ok(0) => {
                    refs.hint = refs.hint.min(cluster);
                    refs.disclaim(cluster, 1);
                    self.l2.remove(cluster << bits);
                    match holes.last_mut() {
                        Some((first, count)) if *first + *count == cluster => *count += 1,
                        _ => holes.push((cluster, 1)),
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(cluster, %error, "a cluster could not be freed"),
            }
        }
        for (first, count) in holes {
            // Only to save space, so a host that cannot is no matter.
            let _ = self.storage.punch(first << bits, count << bits);
        }
        let storage = &*self.storage;
        let wrote = refs.blocks.write(None, |at, slot, range| {
            let bytes = slot.table.get(range.clone()).unwrap_or_default();
            storage.write_at(at + range.start as u64, bytes)
        });
        if wrote.is_ok() && refs.changed.is_empty() {
            refs.blocks.written(None);
        }
    }

    /// Makes the L1 table long enough for a disk of that many entries.
    pub(crate) fn grow_l1(&mut self, entries: u64) -> Result<()> {
        let shape = self.shape;
        let len = usize::try_from(entries).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        if entries > MAX_L1_ENTRIES {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "the disk would be too large for its clusters",
            ));
        }
        if len <= self.l1.len() {
            return Ok(());
        }
        let clusters = |len: usize| (len as u64 * 8).div_ceil(shape.cluster()).max(1);
        let old = (
            self.l1_offset >> shape.cluster_bits,
            clusters(self.l1.len()),
        );
        let had = !self.l1.is_empty();
        let first = self.refs()?.take_row(clusters(len))?;
        self.l1.resize(len, 0);
        self.l1_offset = first << shape.cluster_bits;
        // One that was moved and not written is nowhere on the medium.
        match self.l1_moved {
            Some(_) => self.refs()?.give_back(old.0, old.1),
            None => self.l1_moved = Some(if had { old } else { (0, 0) }),
        }
        Ok(())
    }

    /// Clears bits of a feature field of the header (version 3), at once.
    pub(crate) fn clear_feature(&mut self, field: usize, bits: u64) -> Result<()> {
        let mut head = self.head.clone();
        let now = crate::header::be64(&head, field).unwrap_or(0);
        if now & bits == 0 {
            return Ok(());
        }
        put(&mut head, field, &(now & !bits).to_be_bytes());
        self.storage.write_at(0, &head)?;
        self.storage.sync()?;
        self.head = head;
        Ok(())
    }
}

fn put(head: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = head.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}
