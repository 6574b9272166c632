//! A disk by plain calls.

use std::sync::Arc;

use cantle_abi::PAGE_SIZE;
use cantle_abi::ring::HeapPages;

use crate::{BlockImage, Completion, Disk, ImageError, Io, IoOp, Pages, SECTOR_SIZE};

/// One queue of a disk, with a call for each request that returns when it is over.
pub struct Driven {
    image: Box<dyn BlockImage>,
    done: Vec<Completion>,
}

impl Driven {
    /// A queue of this disk.
    ///
    /// # Errors
    ///
    /// As for [`Disk::open_queue`].
    pub fn new(disk: &(impl Disk + ?Sized)) -> std::io::Result<Self> {
        Ok(Self {
            image: disk.open_queue()?,
            done: Vec::new(),
        })
    }

    /// The queue itself.
    pub fn image(&mut self) -> &mut dyn BlockImage {
        &mut *self.image
    }

    /// Reads `len` bytes, whole sectors.
    ///
    /// # Errors
    ///
    /// The image's.
    pub fn read(&mut self, sector: u64, len: usize) -> Result<Vec<u8>, ImageError> {
        let io = self.finish(&with_memory(IoOp::Read, sector, len))?;
        let mut bytes = vec![0; len];
        io.copy_out(0, &mut bytes);
        Ok(bytes)
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    ///
    /// The image's.
    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let make = |token| {
            let io = with_memory(IoOp::Write, sector, bytes.len())(token);
            io.copy_in(0, bytes);
            io
        };
        self.finish(&make).map(drop)
    }

    /// Flushes.
    ///
    /// # Errors
    ///
    /// The image's.
    pub fn flush(&mut self) -> Result<(), ImageError> {
        self.finish(&with_memory(IoOp::Flush, 0, 0)).map(drop)
    }

    /// Discards sectors.
    ///
    /// # Errors
    ///
    /// The image's.
    pub fn discard(&mut self, sector: u64, sectors: u64) -> Result<(), ImageError> {
        let op = IoOp::Discard {
            sectors,
            secure: false,
        };
        self.finish(&with_memory(op, sector, 0)).map(drop)
    }

    /// Does a request and waits for it.
    fn finish(&mut self, make: &dyn Fn(u64) -> Io) -> Result<Io, ImageError> {
        self.image.queue(make(0));
        loop {
            self.image
                .wait(None)
                .map_err(|error| ImageError::of(&error))?;
            self.image.completions(&mut self.done);
            if let Some(Completion { io, result }) = self.done.pop() {
                return result.map(|()| io);
            }
        }
    }
}

impl std::fmt::Debug for Driven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driven").finish_non_exhaustive()
    }
}

/// A request with memory of its own, in page-sized segments.
fn with_memory(op: IoOp, sector: u64, len: usize) -> impl Fn(u64) -> Io {
    debug_assert!((len as u64).is_multiple_of(SECTOR_SIZE));
    move |token| {
        let mut io = Io::new();
        io.begin(token, op, sector);
        let memory = Arc::new(HeapPages::new(len.div_ceil(PAGE_SIZE).max(1)));
        for at in (0..len).step_by(PAGE_SIZE) {
            let pages = Pages::Shared(memory.clone());
            // Within what was just allocated for it.
            let pushed = io.push(pages, at, PAGE_SIZE.min(len - at));
            debug_assert!(pushed.is_ok());
        }
        io
    }
}
