//! Many transfers, timed.

use std::time::{Duration, Instant};

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::blkif::{BLKIF_OP_READ, BLKIF_SECTOR_SIZE};

use super::{FrontError, FrontQueue, Random, Transfer};

impl FrontQueue {
    /// `count` transfers of `bytes` at random places that are multiples of `bytes`, `depth` requests at a time: how long they took. Where
    /// `bytes` are more than a request holds, each is several requests. The disk has at least `bytes`.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn random(
        &mut self,
        operation: u8,
        bytes: usize,
        depth: usize,
        count: u64,
        seed: u64,
    ) -> Result<Duration, FrontError> {
        let step = sectors(bytes);
        let places = (self.sectors() / step).max(1);
        let mut random = Random::new(seed);
        self.many(operation, bytes, depth, count, || {
            random.below(places) * step
        })
    }

    /// `count` transfers of `bytes` one after the other from the disk's beginning on, and again from there at its end, `depth` requests at a
    /// time: how long they took. Where `bytes` are more than a request holds, each is several requests.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn sequential(
        &mut self,
        operation: u8,
        bytes: usize,
        depth: usize,
        count: u64,
    ) -> Result<Duration, FrontError> {
        let step = sectors(bytes);
        let last = self.sectors().saturating_sub(step);
        let mut at = 0;
        self.many(operation, bytes, depth, count, || {
            let here = if at > last { 0 } else { at };
            at = here + step;
            here
        })
    }

    /// `count` reads of 4 KiB at random places, `depth` at a time: how long they took. The disk has at least 8 sectors.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn random_reads(
        &mut self,
        depth: usize,
        count: u64,
        seed: u64,
    ) -> Result<Duration, FrontError> {
        self.random(BLKIF_OP_READ, PAGE_SIZE, depth, count, seed)
    }

    /// [`sequential`](Self::sequential) reads.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn sequential_reads(
        &mut self,
        depth: usize,
        bytes: usize,
        count: u64,
    ) -> Result<Duration, FrontError> {
        self.sequential(BLKIF_OP_READ, bytes, depth, count)
    }

    /// Transfers at the places that `place` names.
    fn many(
        &mut self,
        operation: u8,
        bytes: usize,
        depth: usize,
        count: u64,
        mut place: impl FnMut() -> u64,
    ) -> Result<Duration, FrontError> {
        let most = self.request_bytes();
        let (mut sector, mut left, mut more) = (0, 0, count);
        let start = Instant::now();
        self.drive(depth, || {
            if left == 0 {
                more = more.checked_sub(1)?;
                (sector, left) = (place(), bytes);
            }
            let bytes = left.min(most);
            let transfer = Transfer {
                operation,
                sector,
                bytes,
            };
            left -= bytes;
            sector += sectors(bytes);
            Some(transfer)
        })?;
        Ok(start.elapsed())
    }
}

fn sectors(bytes: usize) -> u64 {
    (bytes / BLKIF_SECTOR_SIZE).max(1) as u64
}
