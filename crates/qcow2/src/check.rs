//! Looking through all tables of an image: does each count say what is true?

mod uses;

use std::collections::HashSet;
use std::io::{ErrorKind, Result};
use std::sync::Arc;

use cantle_image::Storage;

use crate::counts::count_in;
use crate::header::{Header, be32, be64};
use crate::shape::{COPIED, Cluster, OFFSET, Shape, invalid, read_table};
use crate::tables::Tables;
use uses::Uses;

/// What a look through an image's tables found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Clusters that are used more often than their count says, or that may be written in place and are used twice; entries that point
    /// to where nothing can be. Such an image loses data when it is written to.
    pub errors: u64,
    /// Clusters that are used less often than their count says: space that is lost, no more.
    pub leaks: u64,
    /// Of what was found, how many it did repair; `errors` and `leaks` are without them.
    pub repaired: u64,
    /// Clusters of the disk that have a place in the file, compressed ones too.
    pub allocated: u64,
    /// Compressed clusters of the disk.
    pub compressed: u64,
    /// Where the last used cluster of the file ends, in bytes.
    pub end: u64,
}

struct Walk {
    storage: Arc<dyn Storage>,
    shape: Shape,
    file: u64,
    uses: Uses,
    /// Clusters that are said to be used once.
    alone: HashSet<u64>,
    report: CheckReport,
    /// How many bytes of tables may still be read: many snapshots may share a table, but not without end.
    budget: u64,
}

pub(crate) fn check(tables: &mut Tables, header: &Header, repair: bool) -> Result<CheckReport> {
    let file = tables.storage.len()?;
    let mut walk = Walk {
        storage: Arc::clone(&tables.storage),
        shape: tables.shape,
        file,
        uses: Uses::default(),
        alone: HashSet::new(),
        report: CheckReport::default(),
        budget: file.saturating_mul(64).clamp(64 << 20, 1 << 44),
    };
    walk.uses.add(0, 0);
    walk.table(tables.l1_offset, tables.l1.len() as u64 * 8);
    let l1 = tables.l1.clone();
    walk.l1(&l1, true)?;
    walk.snapshots(header)?;
    let (offset, clusters, blocks) = match &tables.refs {
        Some(refs) => (refs.offset, refs.clusters, refs.table.clone()),
        None => walk.reftable(header)?,
    };
    walk.table(offset, clusters << walk.shape.cluster_bits);
    for block in blocks
        .iter()
        .map(|entry| entry & OFFSET)
        .filter(|at| *at != 0)
    {
        walk.table(block, walk.shape.cluster());
    }
    walk.compare(tables, blocks, repair)
}

impl Walk {
    /// A table of so many bytes is used.
    fn table(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let end = offset.checked_add(len);
        let inside = end.is_some_and(|end| end <= self.file.next_multiple_of(self.shape.cluster()));
        if !inside || self.shape.in_cluster(offset) != 0 {
            self.report.errors += 1;
            return;
        }
        let (first, last) = self.shape.clusters_of(offset, len);
        self.uses.add(first, last);
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        self.budget = self
            .budget
            .checked_sub(bytes)
            .ok_or(invalid("the tables do not end"))?;
        Ok(())
    }

    fn reftable(&mut self, header: &Header) -> Result<(u64, u64, Vec<u64>)> {
        let clusters = u64::from(header.reftable_clusters);
        let bytes = clusters << self.shape.cluster_bits;
        self.spend(bytes)?;
        let entries = usize::try_from(bytes / 8).map_err(|_| ErrorKind::InvalidData)?;
        let table = read_table(&*self.storage, header.reftable_offset, entries)?;
        Ok((header.reftable_offset, clusters, table))
    }

    fn l1(&mut self, l1: &[u64], active: bool) -> Result<()> {
        let shape = self.shape;
        let mut seen = HashSet::new();
        for entry in l1 {
            let at = entry & OFFSET;
            if at == 0 {
                continue;
            }
            // No table is two entries' of one L1 table.
            if shape.in_cluster(at) != 0 || at >= self.file || !seen.insert(at) {
                self.report.errors += 1;
                continue;
            }
            self.spend(shape.cluster())?;
            self.table(at, shape.cluster());
            self.flag(at, entry & COPIED != 0, active);
            for entry in read_table(&*self.storage, at, shape.l2_entries())? {
                self.entry(entry, active);
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: u64, active: bool) {
        let shape = self.shape;
        let counted = u64::from(active);
        match shape.decode(entry) {
            Err(_) => self.report.errors += 1,
            Ok(Cluster::Unallocated | Cluster::Zero { host: None, .. }) => {}
            Ok(
                Cluster::Zero {
                    host: Some(host),
                    copied,
                }
                | Cluster::Data { host, copied },
            ) => {
                self.report.allocated += counted;
                if host >= self.file {
                    self.report.errors += 1;
                    return;
                }
                self.uses
                    .add(host >> shape.cluster_bits, host >> shape.cluster_bits);
                self.flag(host, copied, active);
            }
            Ok(Cluster::Compressed { host, len }) => {
                self.report.allocated += counted;
                self.report.compressed += counted;
                if host >= self.file {
                    self.report.errors += 1;
                    return;
                }
                let (first, last) = shape.clusters_of(host, len);
                self.uses.add(first, last);
            }
        }
    }

    fn flag(&mut self, at: u64, copied: bool, active: bool) {
        if copied && active {
            self.alone.insert(at >> self.shape.cluster_bits);
        }
    }

    /// Section "Snapshots" of the description.
    fn snapshots(&mut self, header: &Header) -> Result<()> {
        let mut at = header.snapshots_offset;
        for _ in 0..header.snapshots {
            self.spend(64)?;
            let mut fixed = [0; 40];
            crate::shape::read_padded(&*self.storage, at, &mut fixed)?;
            let lengths = |at: usize| {
                fixed.get(at..at + 2).map_or(0, |bytes| {
                    bytes
                        .iter()
                        .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
                })
            };
            let (offset, entries) = (be64(&fixed, 0).unwrap_or(0), be32(&fixed, 8).unwrap_or(0));
            let extra = u64::from(be32(&fixed, 36).unwrap_or(0));
            let bytes = u64::from(entries) * 8;
            self.spend(bytes)?;
            let inside = offset
                .checked_add(bytes)
                .is_some_and(|end| end <= self.file);
            if bytes > 32 << 20 || !inside {
                self.report.errors += 1;
            } else {
                self.table(offset, bytes);
                let entries = usize::try_from(entries).map_err(|_| ErrorKind::InvalidData)?;
                let l1 = read_table(&*self.storage, offset, entries)?;
                self.l1(&l1, false)?;
            }
            let len = 40 + extra + lengths(12) + lengths(14);
            let next = at.checked_add(len.next_multiple_of(8));
            at = next
                .filter(|at| *at <= self.file.saturating_add(8))
                .ok_or(invalid("the snapshots do not end"))?;
        }
        self.table(header.snapshots_offset, at - header.snapshots_offset);
        Ok(())
    }

    fn compare(
        mut self,
        tables: &mut Tables,
        blocks: Vec<u64>,
        repair: bool,
    ) -> Result<CheckReport> {
        let shape = self.shape;
        let mut seen = HashSet::new();
        let mut wrong = Vec::new();
        for (index, at) in (0u64..).zip(&blocks) {
            let at = at & OFFSET;
            if at == 0 {
                continue;
            }
            if shape.in_cluster(at) != 0 || at >= self.file || !seen.insert(at) {
                self.report.errors += 1;
                continue;
            }
            let block = tables.counts(at)?;
            for (within, cluster) in
                (0..1usize << shape.block_bits).zip(index << shape.block_bits..)
            {
                let (uses, count) = (
                    self.uses.of(cluster),
                    count_in(&block, shape.refcount_order, within),
                );
                self.report.errors += u64::from(count < uses);
                self.report.leaks += u64::from(count > uses);
                // A flag says that it may be written in place, and somebody else would see it.
                self.report.errors += u64::from(uses > 1 && self.alone.contains(&cluster));
                if count != uses && repair {
                    wrong.push((cluster, uses));
                }
            }
            if wrong.len() >= 1 << 16 {
                self.repair(tables, std::mem::take(&mut wrong))?;
            }
        }
        self.report.errors += self.uncounted(&blocks);
        self.report.end = self.uses.end << shape.cluster_bits;
        if repair {
            self.repair(tables, wrong)?;
        }
        Ok(self.report)
    }

    /// How many clusters are used that there is no block of counts for.
    fn uncounted(&self, blocks: &[u64]) -> u64 {
        let has_block = |cluster: u64| {
            let index = usize::try_from(cluster >> self.shape.block_bits).ok();
            index
                .and_then(|index| blocks.get(index))
                .is_some_and(|at| at & OFFSET != 0)
        };
        self.uses
            .used()
            .filter(|cluster| !has_block(*cluster))
            .count() as u64
    }

    /// Makes counts what they should be: first those that are too low, since the others are no danger.
    fn repair(&mut self, tables: &mut Tables, wrong: Vec<(u64, u64)>) -> Result<()> {
        for (cluster, uses) in wrong {
            let refs = tables.refs()?;
            let count = refs.get(cluster)?;
            refs.set(cluster, uses)?;
            refs.hint = refs.hint.min(cluster);
            self.report.repaired += 1;
            if count > uses {
                self.report.leaks = self.report.leaks.saturating_sub(1);
            } else {
                self.report.errors = self.report.errors.saturating_sub(1);
            }
            if tables.is_full() {
                tables.commit()?;
            }
        }
        tables.commit()
    }
}
