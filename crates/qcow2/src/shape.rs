//! Sizes that follow from the header, and what an entry of a table says.

use std::io::{Error, ErrorKind, Result};

use cantle_image::Storage;

use crate::header::{Compression, Header};

/// The bits of an entry that are an offset in the file.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// There is one reference, so what it points to may be changed in place.
pub(crate) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// It reads as zeroes (version 3).
pub(crate) const ZERO: u64 = 1;

pub(crate) fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// Entries in an L2 table, as a power of two.
    pub(crate) l2_bits: u32,
    /// Counts in a refcount block, as a power of two.
    pub(crate) block_bits: u32,
    pub(crate) refcount_order: u32,
    pub(crate) compression: Compression,
}

/// What an entry of an L2 table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// The parent's, or zeroes.
    Unallocated,
    /// Zeroes; but a place in the file may be held for it.
    Zero { host: Option<u64>, copied: bool },
    /// Bytes in the file.
    Data { host: u64, copied: bool },
    /// Compressed bytes in the file.
    Compressed { host: u64, len: u64 },
}

impl Shape {
    pub(crate) fn of(header: &Header) -> Self {
        Self {
            version: header.version,
            cluster_bits: header.cluster_bits,
            l2_bits: header.cluster_bits - 3,
            block_bits: header.cluster_bits + 3 - header.refcount_order,
            refcount_order: header.refcount_order,
            compression: header.compression,
        }
    }

    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The cluster's size, for memory.
    pub(crate) fn cluster_len(&self) -> usize {
        1 << self.cluster_bits
    }

    /// How many bytes of the disk an L2 table is about.
    pub(crate) fn l2_span(&self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits)
    }

    pub(crate) fn in_cluster(&self, offset: u64) -> u64 {
        offset & (self.cluster() - 1)
    }

    /// The index in the L1 table.
    pub(crate) fn l1_index(&self, offset: u64) -> usize {
        usize::try_from(offset >> (self.cluster_bits + self.l2_bits)).unwrap_or(usize::MAX)
    }

    /// The index in the L2 table.
    pub(crate) fn l2_index(&self, offset: u64) -> usize {
        let index = (offset >> self.cluster_bits) & ((1 << self.l2_bits) - 1);
        usize::try_from(index).unwrap_or(usize::MAX)
    }

    /// Entries in an L2 table.
    pub(crate) fn l2_entries(&self) -> usize {
        1 << self.l2_bits
    }

    /// What an entry says. Its offset is one of a cluster's start.
    pub(crate) fn decode(&self, entry: u64) -> Result<Cluster> {
        let copied = entry & COPIED != 0;
        if entry & COMPRESSED != 0 {
            let split = 62 - (self.cluster_bits - 8);
            let host = entry & ((1 << split) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> split;
            let len = (sectors + 1) * 512 - (host & 511);
            if host > crate::header::MAX_OFFSET {
                return Err(invalid(
                    "a compressed cluster is beyond what a file can have",
                ));
            }
            return Ok(Cluster::Compressed { host, len });
        }
        let host = entry & OFFSET;
        if self.in_cluster(host) != 0 {
            return Err(invalid("an entry of an L2 table points into a cluster"));
        }
        if entry & ZERO != 0 && self.version > 2 {
            let host = (host != 0).then_some(host);
            return Ok(Cluster::Zero { host, copied });
        }
        Ok(match host {
            0 => Cluster::Unallocated,
            host => Cluster::Data { host, copied },
        })
    }

    /// The clusters that hold some bytes of the file, first and last.
    pub(crate) fn clusters_of(&self, host: u64, len: u64) -> (u64, u64) {
        let last = host.saturating_add(len.saturating_sub(1));
        (host >> self.cluster_bits, last >> self.cluster_bits)
    }
}

/// Reads; what is beyond the end of the file is zeroes.
pub(crate) fn read_padded(storage: &dyn Storage, offset: u64, into: &mut [u8]) -> Result<()> {
    match storage.read_at(offset, into) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        other => return other,
    }
    let there = storage.len()?.saturating_sub(offset);
    let there = usize::try_from(there).unwrap_or(usize::MAX).min(into.len());
    let (head, tail) = into.split_at_mut(there);
    tail.fill(0);
    storage.read_at(offset, head)
}

/// Reads a table of big-endian numbers.
pub(crate) fn read_table(storage: &dyn Storage, offset: u64, entries: usize) -> Result<Vec<u64>> {
    let mut bytes = vec![0; entries.checked_mul(8).ok_or(ErrorKind::InvalidData)?];
    read_padded(storage, offset, &mut bytes)?;
    let (numbers, _) = bytes.as_chunks::<8>();
    Ok(numbers
        .iter()
        .map(|bytes| u64::from_be_bytes(*bytes))
        .collect())
}

/// Writes some entries of a table that starts at `offset`.
pub(crate) fn write_table(
    storage: &dyn Storage,
    offset: u64,
    table: &[u64],
    range: std::ops::Range<usize>,
) -> Result<()> {
    let start = range.start as u64 * 8;
    let entries = table.get(range).ok_or(ErrorKind::InvalidInput)?;
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| entry.to_be_bytes())
        .collect();
    storage.write_at(
        offset.checked_add(start).ok_or(ErrorKind::InvalidData)?,
        &bytes,
    )
}
