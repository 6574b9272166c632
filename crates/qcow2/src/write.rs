//! Writing, and making room for it; discarding.

use std::io::Result;

use crate::Qcow2;
use crate::shape::{COPIED, Cluster, ZERO};
use crate::tables::Tables;

/// Where a write goes.
enum Target {
    /// Into the file, where it is already.
    There { host: u64, len: u64 },
    /// It has been done.
    Done { len: u64 },
}

impl Qcow2 {
    pub(crate) fn do_write(&self, offset: u64, from: &[u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, from);
        while !rest.is_empty() {
            let target = {
                let mut tables = self.tables();
                match tables.there(at, rest.len() as u64)? {
                    Some((host, len)) => Target::There { host, len },
                    None => Target::Done {
                        len: self.write_new(&mut tables, at, rest)?,
                    },
                }
            };
            let len = match target {
                Target::There { len, .. } | Target::Done { len } => len,
            };
            let len = usize::try_from(len)
                .unwrap_or(usize::MAX)
                .clamp(1, rest.len());
            let (here, after) = rest.split_at(len);
            if let Target::There { host, .. } = target {
                self.storage.write_at(host, here)?;
            }
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    /// Writes to clusters that have no place of their own yet: as many whole ones as fit in a row, or a part of one. Returns how many
    /// bytes.
    fn write_new(&self, tables: &mut Tables, at: u64, from: &[u8]) -> Result<u64> {
        if tables.is_full() {
            tables.commit()?;
        }
        let shape = self.shape;
        let cluster = shape.cluster();
        let within = shape.in_cluster(at);
        // An L2 table first: an error afterwards leaves an empty one, which is right.
        let table = tables.own_l2(at)?;
        if within != 0 || (from.len() as u64) < cluster {
            let len = (cluster - within).min(from.len() as u64);
            let part = from
                .get(..usize::try_from(len).unwrap_or(usize::MAX))
                .unwrap_or(from);
            self.write_part(tables, table, at, part)?;
            return Ok(len);
        }
        let wanted = tables.run_without_place(at, from.len() as u64 / cluster)?;
        let old = tables.cluster(at)?;
        let (first, count, taken) = match tables.held_place(old)? {
            Some(host) => (host >> shape.cluster_bits, 1, false),
            None => {
                let (first, count) = tables.refs()?.take_run(wanted)?;
                (first, count, true)
            }
        };
        let (host, len) = (first << shape.cluster_bits, count << shape.cluster_bits);
        let bytes = from
            .get(..usize::try_from(len).unwrap_or(usize::MAX))
            .unwrap_or(from);
        tables.fill(host, bytes, taken.then_some((first, count)))?;
        for number in 0..count {
            let place = at + (number << shape.cluster_bits);
            tables.place(table, place, host + (number << shape.cluster_bits))?;
        }
        Ok(len)
    }

    /// Writes to a part of a cluster; the rest of it is what it was.
    pub(crate) fn write_part(
        &self,
        tables: &mut Tables,
        table: u64,
        at: u64,
        from: &[u8],
    ) -> Result<()> {
        let shape = self.shape;
        let start = at - shape.in_cluster(at);
        let within = usize::try_from(shape.in_cluster(at)).unwrap_or(0);
        let old = tables.cluster(at)?;
        let mut whole = vec![0; shape.cluster_len()];
        let mut empty = false;
        match old {
            Cluster::Unallocated if self.parent.is_some() => self.read_parent(start, &mut whole)?,
            Cluster::Unallocated | Cluster::Zero { .. } => empty = true,
            Cluster::Data { host, .. } => self.read_file(host, &mut whole)?,
            Cluster::Compressed { host, len } => whole.copy_from_slice(&tables.inflate(host, len)?),
        }
        let (host, taken) = match tables.held_place(old)? {
            Some(host) => (host, None),
            None => {
                let (first, count) = tables.refs()?.take_run(1)?;
                (first << shape.cluster_bits, Some((first, count)))
            }
        };
        if empty && host >= tables.end {
            // Beyond the end of the file all is zeroes.
            tables.extend(host + shape.cluster(), taken)?;
            tables.fill(host + within as u64, from, taken)?;
        } else {
            if let Some(part) = whole.get_mut(within..within + from.len()) {
                part.copy_from_slice(from);
            }
            tables.fill(host, &whole, taken)?;
        }
        tables.place(table, start, host)
    }

    pub(crate) fn do_discard(&self, offset: u64, len: u64) -> Result<()> {
        let (cluster, span) = (self.shape.cluster(), self.shape.l2_span());
        let end = offset + len;
        // The last cluster of the disk may be one that the disk does not fill.
        let end = if end == self.len() {
            end.next_multiple_of(cluster)
        } else {
            end / cluster * cluster
        };
        let mut at = offset.next_multiple_of(cluster);
        while at < end {
            let next = ((at / span + 1) * span).min(end);
            let mut tables = self.tables();
            if tables.l2_place(at)?.is_some() {
                if tables.is_full() {
                    tables.commit()?;
                }
                tables.empty(at, next, self.parent.is_some())?;
            }
            at = next;
        }
        Ok(())
    }
}

impl Tables {
    /// Where data are that may be written in place, and how far that goes.
    fn there(&mut self, at: u64, len: u64) -> Result<Option<(u64, u64)>> {
        let shape = self.shape;
        let Cluster::Data { host, copied } = self.cluster(at)? else {
            return Ok(None);
        };
        if !self.in_place(host, copied)? {
            return Ok(None);
        }
        let within = shape.in_cluster(at);
        let mut covered = shape.cluster() - within;
        while covered < len {
            match self.cluster(at + covered)? {
                Cluster::Data { host: next, copied }
                    if next == host + within + covered && self.in_place(next, copied)? =>
                {
                    covered += shape.cluster();
                }
                _ => break,
            }
        }
        Ok(Some((host + within, covered.min(len))))
    }

    /// A place that is held for a cluster that reads as zeroes.
    fn held_place(&mut self, old: Cluster) -> Result<Option<u64>> {
        match old {
            Cluster::Zero {
                host: Some(host),
                copied,
            } if host < self.end && self.in_place(host, copied)? => Ok(Some(host)),
            _ => Ok(None),
        }
    }

    /// How many clusters from `at` in one L2 table, at least one, have no place of their own.
    fn run_without_place(&mut self, at: u64, most: u64) -> Result<u64> {
        let shape = self.shape;
        let left = (shape.l2_entries() - shape.l2_index(at)) as u64;
        let mut count = 1;
        while count < most.min(left) {
            let next = at + (count << shape.cluster_bits);
            let without = match self.cluster(next)? {
                Cluster::Data { host, copied } => !self.in_place(host, copied)?,
                Cluster::Zero { host, .. } => host.is_none(),
                Cluster::Unallocated | Cluster::Compressed { .. } => true,
            };
            if !without {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// Writes data to clusters that nothing points to yet. After an error those that were `taken` are free again.
    fn fill(&mut self, host: u64, bytes: &[u8], taken: Option<(u64, u64)>) -> Result<()> {
        match self.storage.write_at(host, bytes) {
            Ok(()) => {
                self.end = self.end.max(host + bytes.len() as u64);
                Ok(())
            }
            Err(error) => {
                // Something may have been written beyond the end, which then is not zeroes any more.
                self.end = self.storage.len().unwrap_or(self.end).max(self.end);
                self.give_back(taken);
                Err(error)
            }
        }
    }

    /// Makes the file at least so long. After an error what was `taken` is free again.
    pub(crate) fn extend(&mut self, end: u64, taken: Option<(u64, u64)>) -> Result<()> {
        if self.end < end {
            if let Err(error) = self.storage.set_len(end) {
                self.give_back(taken);
                return Err(error);
            }
            self.end = end;
        }
        Ok(())
    }

    fn give_back(&mut self, taken: Option<(u64, u64)>) {
        if let (Some((first, count)), Some(refs)) = (taken, &mut self.refs) {
            refs.give_back(first, count);
        }
    }

    /// The cluster's content is at a new place.
    fn place(&mut self, table: u64, at: u64, host: u64) -> Result<()> {
        let old = self.cluster(at)?;
        self.set_entry(table, at, host | COPIED)?;
        if !matches!(old, Cluster::Zero { host: Some(held), .. } if held == host) {
            self.release(old);
        }
        Ok(())
    }

    /// Lets go of the clusters from `at` to `end`, which are about one L2 table.
    fn empty(&mut self, mut at: u64, end: u64, parent: bool) -> Result<()> {
        let with_zero = self.shape.version > 2;
        while at < end {
            let old = self.cluster(at)?;
            let nothing = matches!(old, Cluster::Unallocated | Cluster::Zero { host: None, .. });
            // Version 2 cannot say that a cluster is zeroes where there is a parent: what is there stays.
            if !nothing && (!parent || with_zero) {
                let table = self.own_l2(at)?;
                self.set_entry(table, at, if parent { ZERO } else { 0 })?;
                self.release(old);
            }
            at += self.shape.cluster();
        }
        Ok(())
    }
}
