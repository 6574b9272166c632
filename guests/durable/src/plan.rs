//! What is written where: lanes, and what each of their batches writes. All of it follows from numbers, so that it need not be kept.

use crate::content::{SECTOR, mixed};

/// Parts of a disk, each written by a thread of its own.
pub(crate) const LANES: u64 = 4;

/// What offsets and lengths are multiples of: as a file system has them.
const BLOCK: u64 = 4096;
/// Lengths of writes.
const LENGTHS: [u64; 6] = [BLOCK, BLOCK, 8192, 16_384, 65_536, 131_072];
pub(crate) const LENGTH_MAX: usize = 131_072;
const WRITES_MAX: u64 = 6;

/// Batches of a run have its number times this for a base.
const RUN: u64 = 1_000_000;

/// The number of a run's `n`th batch, which begin at 1.
pub(crate) fn batch(run: u64, n: u64) -> u64 {
    run * RUN + n
}

/// The run and its `n`th.
pub(crate) fn parts(batch: u64) -> (u64, u64) {
    (batch / RUN, batch % RUN)
}

/// A part of a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) number: u64,
    /// First byte.
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// Something written, in bytes from the disk's beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Extent {
    /// The number of its first sector, and that of the first behind it.
    pub(crate) fn sectors(self) -> (u64, u64) {
        let sector = SECTOR as u64;
        (self.offset / sector, (self.offset + self.len) / sector)
    }
}

/// The lanes of a disk with so many bytes.
pub(crate) fn lanes(size: u64) -> impl Iterator<Item = Lane> {
    let len = size / LANES / BLOCK * BLOCK;
    (0..LANES).map(move |number| Lane {
        number,
        start: number * len,
        len,
    })
}

impl Lane {
    /// What a batch writes, in this order; parts may overlap.
    pub(crate) fn writes(self, batch: u64) -> impl Iterator<Item = Extent> {
        let seed = mixed(mixed(self.number) ^ batch);
        let count = 1 + mixed(seed) % WRITES_MAX;
        (1..=count).filter_map(move |index| {
            let draw = mixed(seed ^ (index << 32));
            let choice = usize::try_from(draw % LENGTHS.len() as u64).ok()?;
            let len = *LENGTHS.get(choice)?;
            let places = (self.len.checked_sub(len)?) / BLOCK + 1;
            let offset = self.start + mixed(draw) % places * BLOCK;
            Some(Extent { offset, len })
        })
    }

    /// Whether a batch writes a sector.
    pub(crate) fn writes_sector(self, batch: u64, sector: u64) -> bool {
        self.writes(batch).any(|extent| {
            let (first, behind) = extent.sectors();
            (first..behind).contains(&sector)
        })
    }
}
