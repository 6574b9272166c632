//! Raw images: a file or a block device whose bytes are the disk's bytes, whatever they look like.
//!
//! The contents never decide how they are read: a guest that writes another format's header into its raw disk has written
//! data, no more.

mod format;
mod open;

use std::fmt;
use std::fs::File;
use std::io::Result;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

pub use format::RawFormat;
pub(crate) use open::twin;
pub use open::{Caching, OpenError, RawOptions};

use cantle_abi::SharedMemory;

use crate::geometry::LiveGeometry;
use crate::uring::{Piece, Uring};
use crate::{
    BlockImage, BufferId, Completion, Disk, Durability, Geometry, Io, IoOp, SECTOR_SIZE, Storage,
};

/// A raw file or block device as a disk with any number of queues.
#[derive(Debug)]
pub struct RawDisk {
    file: Arc<File>,
    geometry: Arc<LiveGeometry>,
    options: RawOptions,
    direct: bool,
}

impl RawDisk {
    /// Opens a raw image.
    ///
    /// # Errors
    ///
    /// [`OpenError`], with the path and what is wrong with it.
    pub fn open(path: &Path, options: &RawOptions) -> std::result::Result<Self, OpenError> {
        let opened = open::open(path, options)?;
        Ok(Self {
            file: Arc::new(opened.file),
            geometry: Arc::new(LiveGeometry::new(opened.geometry)),
            options: *options,
            direct: opened.direct,
        })
    }

    /// Whether the host's page cache is bypassed.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Looks how large the file or device is now, and goes by that where it is larger than before; whether it is. Somebody has made it
    /// larger meanwhile: all queues serve the new size at once. A smaller one is not taken: what is beyond its end fails.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn refresh(&self) -> Result<bool> {
        let unit = u64::from(self.geometry.now().sector_size);
        let len = Storage::len(&self.file)?;
        Ok(self.geometry.grow(len / unit * unit / SECTOR_SIZE))
    }

    /// Makes the file larger, and the disk with it; what is new reads as zeroes. Of a device, only what is there already can be had.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn grow(&self, sectors: u64) -> Result<()> {
        let wanted = sectors.saturating_mul(SECTOR_SIZE);
        if Storage::len(&self.file)? < wanted {
            Storage::set_len(&self.file, wanted)?;
        }
        self.refresh().map(drop)
    }

    fn image(&self) -> Result<RawImage> {
        let depth = self.options.queue_depth;
        let files = vec![Arc::clone(&self.file)];
        Ok(RawImage {
            geometry: Arc::clone(&self.geometry),
            direct: self.direct,
            durability: self.options.durability,
            uring: Uring::new(files, depth, self.options.durability)?,
        })
    }
}

impl Disk for RawDisk {
    fn geometry(&self) -> Geometry {
        self.geometry.now()
    }

    fn open_queue(&self) -> Result<Box<dyn BlockImage>> {
        Ok(Box::new(self.image()?))
    }
}

/// One queue of a [`RawDisk`], with an io_uring of its own.
///
/// All that is queued goes to the kernel in one system call, and [`wait`](BlockImage::wait) submits, sleeps and hears the wake-up
/// descriptor in one too. A transfer that the kernel cut short is continued; where the file has no more bytes it fails.
///
/// Dropping it waits for the requests in flight, since the kernel may write to their memory until then.
pub struct RawImage {
    geometry: Arc<LiveGeometry>,
    direct: bool,
    durability: Durability,
    uring: Uring,
}

impl RawImage {
    /// Opens a raw image, for one queue.
    ///
    /// # Errors
    ///
    /// [`OpenError`], with the path and what is wrong with it.
    pub fn open(path: &Path, options: &RawOptions) -> std::result::Result<Self, OpenError> {
        RawDisk::open(path, options)?
            .image()
            .map_err(|source| OpenError::Uring { source })
    }

    /// Whether the host's page cache is bypassed.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }
}

impl BlockImage for RawImage {
    fn geometry(&self) -> Geometry {
        self.geometry.now()
    }

    fn queue(&mut self, io: Io) {
        let result = self.geometry.now().check(&io);
        let nothing = io.op() == IoOp::Flush && self.durability == Durability::Never;
        if nothing || result.is_err() {
            return self.uring.refuse(Completion { io, result }, 0);
        }
        // On the disk, as was just checked, whose length in bytes fits in 64 bits.
        let piece = Piece {
            file: 0,
            offset: io.sector().wrapping_mul(SECTOR_SIZE),
            len: io.sectors().wrapping_mul(SECTOR_SIZE),
        };
        self.uring.queue(io, 0, [piece]);
    }

    fn submit(&mut self) -> Result<()> {
        self.uring.submit()
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        self.uring.collect(|completion, _| done.push(completion));
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.uring.as_fd()
    }

    fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> Result<bool> {
        self.uring.wait(wake)
    }

    fn register(&mut self, memory: &(dyn SharedMemory + Send + Sync)) -> Option<BufferId> {
        // What goes through the page cache is copied anyhow.
        self.direct.then(|| self.uring.register(memory)).flatten()
    }

    fn unregister(&mut self, buffer: BufferId) {
        self.uring.unregister(buffer);
    }
}

impl fmt::Debug for RawImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawImage")
            .field("geometry", &self.geometry.now())
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
