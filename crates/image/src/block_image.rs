//! The seam between a queue of requests and a disk: [`BlockImage`].

use std::io::Result as IoResult;
use std::os::fd::BorrowedFd;

use cantle_abi::SharedMemory;
use rustix::event::{PollFd, PollFlags, poll};

use crate::{Geometry, Io};

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
    /// Not in whole sectors of the disk.
    #[error("{count} sectors from sector {sector} are not whole sectors of the disk")]
    Misaligned {
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

/// Memory that an image knows, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub u16);

/// A disk image that works by completion: one queue of a [`Disk`](crate::Disk).
///
/// # The contract
///
/// An image works by completion. [`queue`](Self::queue) takes an [`Io`] and never waits; [`submit`](Self::submit) sets
/// all that was queued to work at once; [`completions`](Self::completions) gives each [`Io`] back exactly once, in any order,
/// with what became of it. An [`Io`] owns the pages that it reads into or writes from, so a page stays mapped for as long as
/// anything may touch it, and an image needs no promise from its caller to be sound.
///
/// One value is one queue, used by one thread at a time. A device with several queues takes several of one [`Disk`](crate::Disk).
///
/// The caller has checked each request against the [`Geometry`]; an image checks again where a mistake would grow a file or
/// leave it. No order holds between requests in flight. A flush that succeeds covers every write that completed before it
/// was queued.
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

    /// Makes memory known that will be used again and again, so that the host need not look at its pages each time. `None` where the
    /// image has no use for that, or no room. The memory stays mapped until [`unregister`](Self::unregister): the caller sees to it.
    fn register(&mut self, memory: &(dyn SharedMemory + Send + Sync)) -> Option<BufferId> {
        let _ = memory;
        None
    }

    /// Forgets memory of [`register`](Self::register). No request uses it any more.
    fn unregister(&mut self, buffer: BufferId) {
        let _ = buffer;
    }
}

impl ImageError {
    /// What the host said, as an image reports it.
    #[must_use]
    pub fn of(error: &std::io::Error) -> Self {
        match (error.raw_os_error(), error.kind()) {
            (Some(libc::EOPNOTSUPP), _) | (None, std::io::ErrorKind::Unsupported) => {
                Self::Unsupported
            }
            (Some(errno), _) => Self::Host(errno),
            (None, _) => Self::Host(libc::EIO),
        }
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
    fn register(&mut self, memory: &(dyn SharedMemory + Send + Sync)) -> Option<BufferId> {
        (**self).register(memory)
    }
    fn unregister(&mut self, buffer: BufferId) {
        (**self).unregister(buffer);
    }
}
