//! A disk that forgets.

use std::io::Result;
use std::os::fd::BorrowedFd;

use crate::{BlockImage, Completion, Disk, Finished, Geometry, Io};

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
        let geometry = NullDisk { sectors }.geometry();
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

/// The disk whose queues are [`NullImage`]s.
#[derive(Clone, Copy, Debug)]
pub struct NullDisk {
    /// The size in sectors of 512 bytes.
    pub sectors: u64,
}

impl Disk for NullDisk {
    fn geometry(&self) -> Geometry {
        Geometry {
            discard: true,
            secure_discard: true,
            ..Geometry::new(self.sectors)
        }
    }

    fn open_queue(&self) -> Result<Box<dyn BlockImage>> {
        Ok(Box::new(NullImage::new(self.sectors)?))
    }
}
