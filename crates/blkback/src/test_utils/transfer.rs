//! Transfers of data through a [`BlkFront`], one by one or many at a time.

use std::time::{Duration, Instant};

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_RSP_OKAY, BLKIF_SECTOR_SIZE, BlkifResponse,
};
use cantle_abi::ring::RingFull;

use super::front::SECTORS_PER_PAGE;
use super::{BlkFront, FrontError, copy_in, copy_out};

/// Bytes in the largest request.
pub const REQUEST_BYTES: usize = BLKIF_MAX_SEGMENTS_PER_REQUEST * PAGE_SIZE;

/// One transfer for [`BlkFront::drive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// `BLKIF_OP_READ` or `BLKIF_OP_WRITE`.
    pub operation: u8,
    /// The first sector, in units of 512 bytes.
    pub sector: u64,
    /// How many bytes: whole sectors, at most [`REQUEST_BYTES`].
    pub bytes: usize,
}

impl BlkFront {
    /// Keeps up to `depth` transfers in flight until `next` has no more and all are answered; how many there were. The data
    /// that is read stays in the slots' pages, that which is written comes from there.
    ///
    /// # Errors
    ///
    /// [`FrontError::Status`] for the first that fails.
    pub fn drive(
        &mut self,
        depth: usize,
        mut next: impl FnMut() -> Option<Transfer>,
    ) -> Result<u64, FrontError> {
        let (mut in_flight, mut done, mut more) = (0, 0, true);
        loop {
            while more && in_flight < depth {
                let Some(slot) = self.free.pop_front() else {
                    break;
                };
                let Some(transfer) = next() else {
                    self.free.push_front(slot);
                    more = false;
                    break;
                };
                let request = self.request(slot, &transfer);
                self.push(&request)
                    .map_err(|RingFull| FrontError::Silence)?;
                in_flight += 1;
            }
            if in_flight == 0 {
                return Ok(done);
            }
            self.kick()?;
            let mut response = Some(self.wait_response()?);
            while let Some(answer) = response {
                self.settle(&answer)?;
                in_flight -= 1;
                done += 1;
                response = self.ring.next_response()?;
            }
        }
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
        let blocks = (self.sectors / SECTORS_PER_PAGE as u64).max(1);
        let mut random = Random::new(seed);
        let mut left = count;
        let start = Instant::now();
        self.drive(depth, || {
            left = left.checked_sub(1)?;
            Some(Transfer {
                operation: BLKIF_OP_READ,
                sector: random.below(blocks) * SECTORS_PER_PAGE as u64,
                bytes: PAGE_SIZE,
            })
        })?;
        Ok(start.elapsed())
    }

    /// `count` reads of `bytes` one after the other from the disk's beginning on, and again from there at its end, each as
    /// several requests, `depth` requests at a time: how long they took.
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
        let sectors = (bytes / BLKIF_SECTOR_SIZE) as u64;
        let (mut at, mut left, mut reads) = (0, 0, count);
        let last = self.sectors.saturating_sub(sectors);
        let start = Instant::now();
        self.drive(depth, || {
            if left == 0 {
                reads = reads.checked_sub(1)?;
                left = bytes;
                if at > last {
                    at = 0;
                }
            }
            let here = left.min(REQUEST_BYTES);
            let transfer = Transfer {
                operation: BLKIF_OP_READ,
                sector: at,
                bytes: here,
            };
            left -= here;
            at += (here / BLKIF_SECTOR_SIZE) as u64;
            Some(transfer)
        })?;
        Ok(start.elapsed())
    }

    /// Reads `len` bytes, a whole number of sectors.
    ///
    /// # Errors
    ///
    /// [`FrontError::Status`] where the back end refuses a part.
    pub fn read(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, FrontError> {
        let mut data = vec![0; len];
        let mut at = sector;
        for chunk in data.chunks_mut(REQUEST_BYTES) {
            let slot = self.one(BLKIF_OP_READ, at, chunk.len())?;
            let pages = self.slots.get(slot).map_or(&[][..], Vec::as_slice);
            for (part, page) in chunk.chunks_mut(PAGE_SIZE).zip(pages) {
                copy_out(&page.memory, 0, part);
            }
            at += (chunk.len() / BLKIF_SECTOR_SIZE) as u64;
        }
        Ok(data)
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    ///
    /// [`FrontError::Status`] where the back end refuses a part.
    pub fn write(&mut self, sector: u64, data: &[u8]) -> Result<(), FrontError> {
        let mut at = sector;
        for chunk in data.chunks(REQUEST_BYTES) {
            let slot = self.free.front().copied().unwrap_or(0);
            let pages = self.slots.get(slot).map_or(&[][..], Vec::as_slice);
            for (part, page) in chunk.chunks(PAGE_SIZE).zip(pages) {
                copy_in(&page.memory, 0, part);
            }
            self.one(BLKIF_OP_WRITE, at, chunk.len())?;
            at += (chunk.len() / BLKIF_SECTOR_SIZE) as u64;
        }
        Ok(())
    }

    /// Flushes the disk's cache.
    ///
    /// # Errors
    ///
    /// [`FrontError::Status`] where the back end refuses.
    pub fn flush(&mut self) -> Result<(), FrontError> {
        self.one(BLKIF_OP_FLUSH_DISKCACHE, 0, 0).map(drop)
    }

    /// One request with the first free slot, and its answer; which slot it was.
    fn one(&mut self, operation: u8, sector: u64, bytes: usize) -> Result<usize, FrontError> {
        let slot = self.free.front().copied().unwrap_or(0);
        let transfer = Transfer {
            operation,
            sector,
            bytes,
        };
        let request = self.request(slot, &transfer);
        match self.ask(&request)?.status {
            BLKIF_RSP_OKAY => Ok(slot),
            status => Err(FrontError::Status(status)),
        }
    }

    fn settle(&mut self, answer: &BlkifResponse) -> Result<(), FrontError> {
        if let Ok(slot) = usize::try_from(answer.id) {
            // At the front: its pages are warm, as a driver's would be.
            self.free.push_front(slot);
        }
        match answer.status {
            BLKIF_RSP_OKAY => Ok(()),
            status => Err(FrontError::Status(status)),
        }
    }
}

/// A small generator of random numbers, the same for the same seed: xorshift64*.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed; 0 is taken for 1.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// The next number below `end`, which is not 0; nearly uniform.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end.max(1)
    }
}
