//! Reference counts: how often each cluster of the file is used, and which are free.
//!
//! A table of blocks of counts. A count that has to be above zero before something on the medium points to its cluster is raised at
//! once, in memory; it is lowered only after nothing on the medium points there any more: see [`commit`](crate::commit).

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use cantle_image::Storage;

use crate::cache::Cache;
use crate::counts::{count_in, set_count_in};
use crate::header::{Header, MAX_OFFSET, max_reftable_entries};
use crate::shape::{OFFSET, Shape, invalid, read_padded, read_table};

pub(crate) struct Refcounts {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) shape: Shape,
    /// Where each block is. Longer than what the file has room for until it is moved.
    pub(crate) table: Vec<u64>,
    pub(crate) offset: u64,
    /// How many clusters the table has in the file.
    pub(crate) clusters: u64,
    /// It is at a new place, and the header on the medium names this one: the first cluster and how many.
    pub(crate) moved: Option<(u64, u64)>,
    /// Entries that are not in the file yet.
    pub(crate) changed: BTreeSet<usize>,
    pub(crate) blocks: Cache<u8>,
    /// Clusters of the image's own tables. No data are there, whatever the tables say.
    pub(crate) tables: BTreeSet<u64>,
    /// No cluster before this one is free.
    pub(crate) hint: u64,
}

impl Refcounts {
    pub(crate) fn load(
        storage: Arc<dyn Storage>,
        header: &Header,
        end: u64,
        cache: usize,
    ) -> Result<Self> {
        let shape = Shape::of(header);
        let clusters = u64::from(header.reftable_clusters);
        let bytes = clusters << shape.cluster_bits;
        let entries = bytes / 8;
        let fits = header
            .reftable_offset
            .checked_add(bytes)
            .is_some_and(|last| last <= end.next_multiple_of(shape.cluster()));
        if !fits {
            return Err(invalid("the refcount table is beyond the end of the file"));
        }
        let entries = usize::try_from(entries).map_err(|_| ErrorKind::InvalidData)?;
        let table = read_table(&*storage, header.reftable_offset, entries)?;
        let mut tables = BTreeSet::new();
        for entry in table.iter().filter(|entry| **entry != 0) {
            let inside = shape.in_cluster(*entry) == 0 && *entry < end;
            // One block for two ranges would give out a cluster twice, and without end.
            if !inside || !tables.insert(entry >> shape.cluster_bits) {
                return Err(invalid(
                    "the refcount table names a block that cannot be one",
                ));
            }
        }
        let mut refs = Self {
            storage,
            shape,
            table,
            offset: header.reftable_offset,
            clusters,
            moved: None,
            changed: BTreeSet::new(),
            blocks: Cache::new(cache >> shape.cluster_bits),
            tables,
            hint: 0,
        };
        refs.claim(0, 1);
        refs.claim(header.reftable_offset >> shape.cluster_bits, clusters);
        Ok(refs)
    }

    /// These clusters are tables.
    pub(crate) fn claim(&mut self, first: u64, count: u64) {
        self.tables.extend(first..first.saturating_add(count));
    }

    /// These are tables no more.
    pub(crate) fn disclaim(&mut self, first: u64, count: u64) {
        for cluster in first..first.saturating_add(count) {
            self.tables.remove(&cluster);
        }
    }

    fn place(&self, cluster: u64) -> (usize, usize) {
        let index = usize::try_from(cluster >> self.shape.block_bits).unwrap_or(usize::MAX);
        let within = cluster & ((1 << self.shape.block_bits) - 1);
        (index, usize::try_from(within).unwrap_or(usize::MAX))
    }

    fn block_at(&self, index: usize) -> Option<u64> {
        self.table
            .get(index)
            .map(|entry| entry & OFFSET)
            .filter(|at| *at != 0)
    }

    /// A copy of the block at a place.
    pub(crate) fn block(&mut self, at: u64) -> Result<Vec<u8>> {
        let (storage, shape) = (Arc::clone(&self.storage), self.shape);
        Ok(self
            .blocks
            .get(at, || load_block(&*storage, shape, at))?
            .table
            .clone())
    }

    /// How often a cluster is used.
    pub(crate) fn get(&mut self, cluster: u64) -> Result<u64> {
        let (index, within) = self.place(cluster);
        let Some(at) = self.block_at(index) else {
            return Ok(0);
        };
        let (storage, shape) = (Arc::clone(&self.storage), self.shape);
        let block = self.blocks.get(at, || load_block(&*storage, shape, at))?;
        Ok(count_in(&block.table, shape.refcount_order, within))
    }

    /// Sets how often a cluster is used. Where there is no block for it, one is made.
    pub(crate) fn set(&mut self, cluster: u64, count: u64) -> Result<()> {
        let (index, within) = self.place(cluster);
        let order = self.shape.refcount_order;
        if order < 6 && count >> (1 << order) != 0 {
            return Err(invalid("a reference count would not fit"));
        }
        let at = match self.block_at(index) {
            Some(at) => at,
            None => self.make_block(index)?,
        };
        let (storage, shape) = (Arc::clone(&self.storage), self.shape);
        self.blocks.change(
            at,
            || load_block(&*storage, shape, at),
            |block| {
                if let Some(byte) = set_count_in(&mut block.table, order, within, count) {
                    block.touch(byte.start);
                    block.touch(byte.end - 1);
                }
            },
        )
    }

    /// A block for clusters that had none, and so are all free: it takes the first of them.
    fn make_block(&mut self, index: usize) -> Result<u64> {
        let first = (index as u64) << self.shape.block_bits;
        self.place_block(index, first)?;
        self.set(first, 1)?;
        Ok(first << self.shape.cluster_bits)
    }

    fn place_block(&mut self, index: usize, cluster: u64) -> Result<()> {
        let at = cluster
            .checked_mul(self.shape.cluster())
            .filter(|at| *at <= MAX_OFFSET);
        let at = at.ok_or(ErrorKind::StorageFull)?;
        if index as u64 >= max_reftable_entries(self.shape.cluster()) {
            return Err(Error::new(
                ErrorKind::StorageFull,
                "the refcount table cannot grow further",
            ));
        }
        if !self.tables.insert(cluster) {
            return Err(invalid("a table of the image is counted as free"));
        }
        if index >= self.table.len() {
            self.table.resize(index + 1, 0);
        }
        if let Some(entry) = self.table.get_mut(index) {
            *entry = at;
        }
        self.changed.insert(index);
        self.blocks.insert(at, vec![0; self.shape.cluster_len()]);
        Ok(())
    }

    /// Takes one free cluster, and those that follow it and are free, up to `most`. Returns the first and how many.
    pub(crate) fn take_run(&mut self, most: u64) -> Result<(u64, u64)> {
        let mut first = self.hint;
        while self.get(first)? != 0 {
            first += 1;
            self.hint = first;
        }
        let (index, _) = self.place(first);
        if self.block_at(index).is_none() {
            self.make_block(index)?;
            return self.take_run(most);
        }
        let end = ((index as u64) + 1) << self.shape.block_bits;
        let mut count = 0;
        while count < most && first + count < end && self.get(first + count)? == 0 {
            self.check_free(first + count)?;
            count += 1;
        }
        for cluster in first..first + count {
            self.set(cluster, 1)?;
        }
        self.hint = first + count;
        Ok((first, count))
    }

    /// Takes so many free clusters in a row, for a table.
    pub(crate) fn take_row(&mut self, count: u64) -> Result<u64> {
        let first = match self.find_row(count)? {
            Some(first) => first,
            None => self.append_row(count)?,
        };
        for cluster in first..first + count {
            self.check_free(cluster)?;
            self.set(cluster, 1)?;
        }
        self.claim(first, count);
        Ok(first)
    }

    /// Looks for a row where there are blocks.
    fn find_row(&mut self, count: u64) -> Result<Option<u64>> {
        let (mut first, mut len) = (self.hint, 0);
        while self.block_at(self.place(first + len).0).is_some() {
            if self.get(first + len)? == 0 {
                len += 1;
            } else {
                first += len + 1;
                len = 0;
            }
            if len == count {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }

    /// Makes room for a row after all there is: blocks first, then the row that they count.
    fn append_row(&mut self, count: u64) -> Result<u64> {
        let used = self
            .table
            .iter()
            .rposition(|entry| *entry != 0)
            .map_or(0, |last| last + 1);
        let per_block = 1u64 << self.shape.block_bits;
        let mut blocks = 1;
        while blocks * per_block < blocks + count {
            blocks += 1;
        }
        let first = (used as u64) << self.shape.block_bits;
        for number in 0..blocks {
            let index = used + usize::try_from(number).map_err(|_| ErrorKind::StorageFull)?;
            self.place_block(index, first + number)?;
        }
        for number in 0..blocks {
            self.set(first + number, 1)?;
        }
        Ok(first + blocks)
    }

    fn check_free(&self, cluster: u64) -> Result<()> {
        let at = cluster.checked_mul(self.shape.cluster());
        if at.is_none_or(|at| at > MAX_OFFSET - self.shape.cluster()) {
            return Err(ErrorKind::StorageFull.into());
        }
        if self.tables.contains(&cluster) {
            return Err(invalid("a table of the image is counted as free"));
        }
        Ok(())
    }

    /// Gives back what was taken and never used.
    pub(crate) fn give_back(&mut self, first: u64, count: u64) {
        for cluster in first..first + count {
            if let Err(error) = self.set(cluster, 0) {
                tracing::warn!(cluster, %error, "a cluster is lost until the image is repaired");
            }
        }
        self.disclaim(first, count);
        self.hint = self.hint.min(first);
    }
}

pub(crate) fn load_block(storage: &dyn Storage, shape: Shape, at: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; shape.cluster_len()];
    read_padded(storage, at, &mut bytes)?;
    Ok(bytes)
}
