//! Transfers of data through a [`FrontQueue`], one by one or many at a time.

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::blkif::{
    BLKIF_DISCARD_SECURE, BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY, BLKIF_SECTOR_SIZE,
    BlkifRequest, BlkifRequestDiscard, BlkifResponse,
};
use cantle_abi::ring::RingFull;
use zerocopy::FromZeros;

use super::{FrontError, FrontQueue, copy_in, copy_out};

/// Bytes in the largest request that is not indirect.
pub const REQUEST_BYTES: usize = BLKIF_MAX_SEGMENTS_PER_REQUEST * PAGE_SIZE;

/// One transfer for [`FrontQueue::drive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// `BLKIF_OP_READ` or `BLKIF_OP_WRITE`.
    pub operation: u8,
    /// The first sector, in units of 512 bytes.
    pub sector: u64,
    /// How many bytes: whole sectors, at most [`FrontQueue::request_bytes`].
    pub bytes: usize,
}

impl FrontQueue {
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
                response = self.response()?;
            }
        }
    }

    /// Reads `len` bytes, a whole number of sectors.
    ///
    /// # Errors
    ///
    /// [`FrontError::Status`] where the back end refuses a part.
    pub fn read(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, FrontError> {
        let mut data = vec![0; len];
        let mut at = sector;
        for chunk in data.chunks_mut(self.request_bytes()) {
            let slot = self.one(BLKIF_OP_READ, at, chunk.len())?;
            self.take_from(slot, chunk);
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
        for chunk in data.chunks(self.request_bytes()) {
            let slot = self.free.front().copied().unwrap_or(0);
            self.put_into(slot, chunk);
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

    /// Discards sectors; so that nothing of them is left on the medium where `secure`.
    ///
    /// # Errors
    ///
    /// [`FrontError::Status`] where the back end refuses.
    pub fn discard(&mut self, sector: u64, sectors: u64, secure: bool) -> Result<(), FrontError> {
        let mut discard = BlkifRequestDiscard::new_zeroed();
        discard.operation = BLKIF_OP_DISCARD;
        discard.flag = if secure { BLKIF_DISCARD_SECURE } else { 0 };
        discard.sector_number = sector;
        discard.nr_sectors = sectors;
        self.must(&discard.into())
    }

    /// Copies bytes into a slot's pages, from the first one's beginning on.
    pub fn put_into(&self, slot: usize, bytes: &[u8]) {
        for (number, part) in bytes.chunks(PAGE_SIZE).enumerate() {
            if let Some(page) = self.page(slot, number) {
                copy_in(&page.memory, 0, part);
            }
        }
    }

    /// Copies bytes out of a slot's pages, from the first one's beginning on.
    pub fn take_from(&self, slot: usize, bytes: &mut [u8]) {
        for (number, part) in bytes.chunks_mut(PAGE_SIZE).enumerate() {
            if let Some(page) = self.page(slot, number) {
                copy_out(&page.memory, 0, part);
            }
        }
    }

    /// A request that is to succeed.
    ///
    /// # Errors
    ///
    /// [`FrontError::Status`] where it does not.
    pub fn must(&mut self, request: &BlkifRequest) -> Result<(), FrontError> {
        match self.ask(request)?.status {
            BLKIF_RSP_OKAY => Ok(()),
            status => Err(FrontError::Status(status)),
        }
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
        self.must(&request).map(|()| slot)
    }

    fn settle(&mut self, answer: &BlkifResponse) -> Result<(), FrontError> {
        if let Ok(slot) = usize::try_from(answer.id) {
            // At the front: its pages are warm, as a driver's would be.
            self.free.push_front(slot);
        }
        if !matches!(answer.operation, BLKIF_OP_READ | BLKIF_OP_WRITE) {
            return Err(FrontError::Operation(answer.operation));
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
