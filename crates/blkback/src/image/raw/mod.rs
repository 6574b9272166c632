//! Raw images: a file or a block device whose bytes are the disk's bytes, whatever they look like.
//!
//! The contents never decide how they are read: a guest that writes another format's header into its raw disk has written
//! data, no more.

mod open;
mod uring;

use std::fmt;
use std::io::Result;
use std::os::fd::BorrowedFd;
use std::path::Path;

pub use open::{Caching, OpenError, RawOptions};

use super::{BlockImage, Completion, Geometry, Io};
use uring::Uring;

/// A raw file or block device, read and written by an io_uring of its own.
///
/// All that is queued goes to the kernel in one system call, and [`wait`](BlockImage::wait) submits, sleeps and hears the wake-up
/// descriptor in one too. A transfer that the kernel cut short is continued; where the file has no more bytes it fails.
///
/// Dropping it waits for the requests in flight, since the kernel may write to their memory until then.
pub struct RawImage {
    geometry: Geometry,
    direct: bool,
    uring: Uring,
}

impl RawImage {
    /// Opens a raw image.
    ///
    /// # Errors
    ///
    /// [`OpenError`], with the path and what is wrong with it.
    pub fn open(path: &Path, options: &RawOptions) -> std::result::Result<Self, OpenError> {
        let opened = open::open(path, options)?;
        let uring = Uring::new(opened.file, options.queue_depth)
            .map_err(|source| OpenError::Uring { source })?;
        Ok(Self {
            geometry: opened.geometry,
            direct: opened.direct,
            uring,
        })
    }

    /// Whether the host's page cache is bypassed.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }
}

impl BlockImage for RawImage {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn queue(&mut self, io: Io) {
        match self.geometry.check(&io) {
            Ok(()) => self.uring.queue(io),
            Err(error) => self.uring.refuse(Completion {
                io,
                result: Err(error),
            }),
        }
    }

    fn submit(&mut self) -> Result<()> {
        self.uring.submit()
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        self.uring.collect(done);
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.uring.as_fd()
    }

    fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> Result<bool> {
        self.uring.wait(wake)
    }
}

impl fmt::Debug for RawImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawImage")
            .field("geometry", &self.geometry)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
