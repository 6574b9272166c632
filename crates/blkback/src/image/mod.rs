//! What a disk is made of: the [`BlockImage`] seam, and the images of this crate.
//!
//! # The contract
//!
//! An image works by completion. [`queue`](BlockImage::queue) takes an [`Io`] and never waits; [`submit`](BlockImage::submit) sets
//! all that was queued to work at once; [`completions`](BlockImage::completions) gives each [`Io`] back exactly once, in any order,
//! with what became of it. An [`Io`] owns the pages that it reads into or writes from, so a page stays mapped for as long as
//! anything may touch it, and an image needs no promise from its caller to be sound.
//!
//! One value is one queue, used by one thread at a time. A device with several queues takes several values of one file.
//!
//! The caller has checked each request against the [`Geometry`]; an image checks again where a mistake would grow a file or
//! leave it. No order holds between requests in flight. A flush that succeeds covers every write that completed before it
//! was queued.

mod finished;
mod io;
mod null;
mod raw;

use std::io::Result as IoResult;
use std::os::fd::BorrowedFd;

pub use finished::Finished;
pub use io::{Io, IoOp, OutsidePages, Pages, Segment};
pub use null::NullImage;
pub use raw::{Caching, OpenError, RawImage, RawOptions};

use cantle_abi::io::blkif::BLKIF_SECTOR_SIZE;
use rustix::event::{PollFd, PollFlags, poll};

/// Bytes in a sector, the unit of every sector number in this crate.
pub const SECTOR_SIZE: u64 = BLKIF_SECTOR_SIZE as u64;

/// A disk's size and nature. It does not change while the image lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The size in sectors of 512 bytes.
    pub sectors: u64,
    /// The smallest unit, in bytes, that the medium writes without reading first. A hint to the guest; a power of two.
    pub physical_sector_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether [`IoOp::Discard`] may work.
    pub discard: bool,
}

/// An [`Io`] that is over.
#[derive(Debug)]
pub struct Completion {
    /// The request, as it was queued: its token says which it is.
    pub io: Io,
    /// Whether all of it was done. After an error, how much was done is not known.
    pub result: Result<(), ImageError>,
}

/// Why an image could not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The host's system call failed with this errno.
    #[error("the host failed with errno {0}")]
    Host(i32),
    /// The file ended early: somebody made it shorter.
    #[error("only {done} of {wanted} bytes are there")]
    Short {
        /// Bytes transferred.
        done: usize,
        /// Bytes asked for.
        wanted: usize,
    },
    /// The range is not on the disk.
    #[error("{count} sectors from sector {sector} are not on the disk")]
    OutOfRange {
        /// The first sector.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// A write to a read-only image.
    #[error("the image is read-only")]
    ReadOnly,
    /// The image cannot do this at all.
    #[error("the operation is not supported")]
    Unsupported,
}

/// A disk image that works by completion: see the [module](self) for the contract.
pub trait BlockImage: Send {
    /// The disk's size and nature.
    fn geometry(&self) -> Geometry;

    /// Takes a request. Never waits and never fails: what is wrong with it comes back as a [`Completion`].
    fn queue(&mut self, io: Io);

    /// Sets everything that was queued to work, in one system call where the image makes system calls.
    ///
    /// # Errors
    ///
    /// The host cannot take requests any more. Those in flight still complete.
    fn submit(&mut self) -> IoResult<()>;

    /// Appends the requests that are over to `done`. Never waits.
    fn completions(&mut self, done: &mut Vec<Completion>);

    /// Readable while a completion waits to be collected.
    fn completion_fd(&self) -> BorrowedFd<'_>;

    /// Submits, and sleeps until a completion waits or `wake` is readable; whether `wake` is. It may wake for nothing.
    ///
    /// `wake` is the same open file at every call that gives one. An image that sleeps in a system call of its own can save one
    /// by implementing this itself.
    ///
    /// # Errors
    ///
    /// As for [`submit`](Self::submit).
    fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> IoResult<bool> {
        self.submit()?;
        let own = self.completion_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(own, PollFlags::IN),
            PollFd::from_borrowed_fd(wake.unwrap_or(own), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [_, second] = fds;
        Ok(wake.is_some() && !second.revents().is_empty())
    }
}

impl<I: BlockImage + ?Sized> BlockImage for Box<I> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    fn queue(&mut self, io: Io) {
        (**self).queue(io);
    }
    fn submit(&mut self) -> IoResult<()> {
        (**self).submit()
    }
    fn completions(&mut self, done: &mut Vec<Completion>) {
        (**self).completions(done);
    }
    fn completion_fd(&self) -> BorrowedFd<'_> {
        (**self).completion_fd()
    }
    fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> IoResult<bool> {
        (**self).wait(wake)
    }
}

impl Geometry {
    /// Whether `count` sectors from `sector` are on the disk.
    #[must_use]
    pub fn contains(&self, sector: u64, count: u64) -> bool {
        sector
            .checked_add(count)
            .is_some_and(|end| end <= self.sectors)
    }

    /// Whether an image of this geometry may try `io`.
    ///
    /// # Errors
    ///
    /// [`ImageError::OutOfRange`], [`ImageError::ReadOnly`] and [`ImageError::Unsupported`], the last for a discard where there is none.
    pub fn check(&self, io: &Io) -> Result<(), ImageError> {
        let writes = matches!(io.op(), IoOp::Write | IoOp::Discard { .. });
        if writes && self.read_only {
            return Err(ImageError::ReadOnly);
        }
        if matches!(io.op(), IoOp::Discard { .. }) && !self.discard {
            return Err(ImageError::Unsupported);
        }
        let (sector, count) = (io.sector(), io.sectors());
        if self.contains(sector, count) {
            Ok(())
        } else {
            Err(ImageError::OutOfRange { sector, count })
        }
    }
}
