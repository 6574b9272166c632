//! The tables of an open image, behind its lock.

use std::io::{ErrorKind, Result};
use std::ops::Range;
use std::sync::Arc;

use cantle_image::Storage;

use crate::cache::{Cache, Slot};
use crate::header::{HEAD_LEN, Header, V2_LEN, V3_LEN};
use crate::refcounts::{Refcounts, load_block};
use crate::shape::{COPIED, Cluster, OFFSET, Shape, invalid, read_padded, read_table};

pub(crate) struct Tables {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) shape: Shape,
    /// The disk's size in bytes.
    pub(crate) size: u64,
    /// The header's fixed part, as it is on the medium.
    pub(crate) head: Vec<u8>,
    pub(crate) l1: Vec<u64>,
    pub(crate) l1_offset: u64,
    /// What of the L1 table is not in the file.
    pub(crate) l1_dirty: Option<Range<usize>>,
    /// It is at a new place (the header on the medium names the old one, with so many clusters), or the size is new.
    pub(crate) l1_moved: Option<(u64, u64)>,
    pub(crate) resized: bool,
    pub(crate) l2: Cache<u64>,
    /// None for an image that is only read.
    pub(crate) refs: Option<Refcounts>,
    /// Clusters that lose a reference once nothing on the medium uses it: the first and how many.
    pub(crate) freed: Vec<(u64, u64)>,
    /// The length of the file. What lies beyond reads as zeroes when it becomes part of it.
    pub(crate) end: u64,
    /// The compressed cluster that was read last: where it is, what is in it.
    pub(crate) inflated: Option<(u64, Arc<Vec<u8>>)>,
}

impl Tables {
    pub(crate) fn load(
        storage: Arc<dyn Storage>,
        header: &Header,
        writable: bool,
        cache: usize,
    ) -> Result<Self> {
        let shape = Shape::of(header);
        let end = storage.len()?;
        let entries = usize::try_from(header.l1_entries).map_err(|_| ErrorKind::InvalidData)?;
        let l1_end = header
            .l1_offset
            .checked_add(u64::from(header.l1_entries) * 8);
        if l1_end.is_none_or(|last| last > end.next_multiple_of(shape.cluster())) {
            return Err(invalid("the L1 table is beyond the end of the file"));
        }
        let l1 = read_table(&*storage, header.l1_offset, entries)?;
        let mut head = vec![0; if header.version == 2 { V2_LEN } else { V3_LEN }];
        storage.read_at(0, &mut head)?;
        let refs = if writable {
            let mut refs = Refcounts::load(Arc::clone(&storage), header, end, cache / 4)?;
            let first = header.l1_offset >> shape.cluster_bits;
            refs.claim(first, (entries as u64 * 8).div_ceil(shape.cluster()));
            for entry in l1.iter().map(|entry| entry & OFFSET).filter(|at| *at != 0) {
                refs.claim(entry >> shape.cluster_bits, 1);
            }
            Some(refs)
        } else {
            None
        };
        Ok(Self {
            storage,
            shape,
            size: header.size,
            head,
            l1,
            l1_offset: header.l1_offset,
            l1_dirty: None,
            l1_moved: None,
            resized: false,
            l2: Cache::new(cache >> shape.cluster_bits),
            refs,
            freed: Vec::new(),
            end,
            inflated: None,
        })
    }

    /// A block of counts: as it is in memory, if it is; else as it is in the file.
    pub(crate) fn counts(&mut self, at: u64) -> Result<Vec<u8>> {
        match &mut self.refs {
            Some(refs) => refs.block(at),
            None => load_block(&*self.storage, self.shape, at),
        }
    }

    pub(crate) fn refs(&mut self) -> Result<&mut Refcounts> {
        self.refs
            .as_mut()
            .ok_or(ErrorKind::ReadOnlyFilesystem.into())
    }

    /// The L2 table for a place on the disk, if there is one.
    pub(crate) fn l2(&mut self, offset: u64) -> Result<Option<&mut Slot<u64>>> {
        match self.l2_place(offset)? {
            Some(at) => {
                let (storage, shape) = (Arc::clone(&self.storage), self.shape);
                self.l2
                    .get(at, || read_table(&*storage, at, shape.l2_entries()))
                    .map(Some)
            }
            None => Ok(None),
        }
    }

    pub(crate) fn l2_place(&self, offset: u64) -> Result<Option<u64>> {
        let entry = self
            .l1
            .get(self.shape.l1_index(offset))
            .copied()
            .unwrap_or(0);
        let at = entry & OFFSET;
        if self.shape.in_cluster(at) != 0 {
            return Err(invalid("an entry of the L1 table points into a cluster"));
        }
        // One that is not in the file yet is in memory only, and so has no say in how long the file is.
        Ok((at != 0).then_some(at))
    }

    /// What is at a place on the disk.
    pub(crate) fn cluster(&mut self, offset: u64) -> Result<Cluster> {
        let (shape, index) = (self.shape, self.shape.l2_index(offset));
        match self.l2(offset)? {
            Some(table) => shape.decode(table.get(index).unwrap_or(0)),
            None => Ok(Cluster::Unallocated),
        }
    }

    /// Whether a data cluster may be written where it is.
    pub(crate) fn in_place(&mut self, host: u64, copied: bool) -> Result<bool> {
        let cluster = host >> self.shape.cluster_bits;
        let end = self.end;
        let Some(refs) = &mut self.refs else {
            return Ok(false);
        };
        if refs.tables.contains(&cluster) || host >= end {
            return Err(invalid("data are where they cannot be"));
        }
        // The flag may be missing where there is one reference only: that costs a look, not a copy.
        Ok(copied || refs.get(cluster)? == 1)
    }

    /// An L2 table that may be changed, for a place on the disk.
    pub(crate) fn own_l2(&mut self, offset: u64) -> Result<u64> {
        let index = self.shape.l1_index(offset);
        let old = self.l2_place(offset)?;
        let bits = self.shape.cluster_bits;
        let entry = self.l1.get(index).copied().ok_or(ErrorKind::InvalidInput)?;
        if let Some(at) = old
            && entry & COPIED != 0
        {
            return Ok(at);
        }
        if let Some(at) = old
            && self.refs()?.get(at >> bits)? == 1
        {
            self.set_l1(index, at | COPIED);
            return Ok(at);
        }
        let table = match self.l2(offset)? {
            // What a snapshot holds too: its clusters have been counted for both.
            Some(shared) => shared.table.iter().map(|entry| entry & !COPIED).collect(),
            None => vec![0; self.shape.l2_entries()],
        };
        let cluster = self.refs()?.take_row(1)?;
        let at = cluster << bits;
        self.l2.insert(at, table);
        self.set_l1(index, at | COPIED);
        if let Some(old) = old {
            self.freed.push((old >> bits, 1));
        }
        Ok(at)
    }

    pub(crate) fn set_l1(&mut self, index: usize, value: u64) {
        if let Some(entry) = self.l1.get_mut(index) {
            *entry = value;
            self.l1_dirty = Some(match &self.l1_dirty {
                Some(range) => range.start.min(index)..range.end.max(index + 1),
                None => index..index + 1,
            });
        }
    }

    /// Changes the entry for a place on the disk, in a table of [`own_l2`](Self::own_l2).
    pub(crate) fn set_entry(&mut self, table: u64, offset: u64, entry: u64) -> Result<()> {
        let (storage, shape) = (Arc::clone(&self.storage), self.shape);
        let index = shape.l2_index(offset);
        let load = || read_table(&*storage, table, shape.l2_entries());
        self.l2.change(table, load, |slot| slot.set(index, entry))
    }

    /// What an entry pointed to is not used by it any more.
    pub(crate) fn release(&mut self, old: Cluster) {
        let bits = self.shape.cluster_bits;
        match old {
            Cluster::Unallocated | Cluster::Zero { host: None, .. } => {}
            Cluster::Zero {
                host: Some(host), ..
            }
            | Cluster::Data { host, .. } => {
                self.release_cluster(host >> bits);
            }
            Cluster::Compressed { host, len } => {
                let (first, last) = self.shape.clusters_of(host, len);
                (first..=last).for_each(|cluster| self.release_cluster(cluster));
            }
        }
    }

    fn release_cluster(&mut self, cluster: u64) {
        match self.freed.last_mut() {
            Some((first, count)) if *first + *count == cluster => *count += 1,
            _ => self.freed.push((cluster, 1)),
        }
    }

    /// Whether so much waits in memory that it is time to write it.
    pub(crate) fn is_full(&self) -> bool {
        let refs = self.refs.as_ref().is_some_and(|refs| refs.blocks.is_full());
        refs || self.l2.is_full() || self.freed.len() > 1 << 16
    }
}

/// The first bytes of a file, for [`Header::parse`].
pub(crate) fn read_head(storage: &dyn Storage) -> Result<Vec<u8>> {
    let len = usize::try_from(storage.len()?)
        .unwrap_or(usize::MAX)
        .min(HEAD_LEN);
    let mut head = vec![0; len];
    read_padded(storage, 0, &mut head)?;
    Ok(head)
}
