//! A disk that forgets.

use std::io::Result;
use std::os::fd::BorrowedFd;

use super::{BlockImage, Completion, Finished, Geometry, Io};

/// An image that finishes every request at once without touching the memory: what is left is the cost of the ring.
#[derive(Debug)]
pub struct NullImage {
    geometry: Geometry,
    finished: Finished,
}

impl NullImage {
    /// A disk of so many sectors of 512 bytes. Reads leave the guest's memory as it was.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub fn new(sectors: u64) -> Result<Self> {
        let geometry = Geometry {
            sectors,
            physical_sector_size: 512,
            read_only: false,
            discard: true,
        };
        let finished = Finished::new()?;
        Ok(Self { geometry, finished })
    }
}

impl BlockImage for NullImage {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn queue(&mut self, io: Io) {
        let result = self.geometry.check(&io);
        self.finished.push(Completion { io, result });
    }

    fn submit(&mut self) -> Result<()> {
        self.finished.publish()
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        self.finished.collect(done);
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.finished.fd()
    }
}
