//! A disk made of a format.
//!
//! Most requests are about bytes whose place is known and stays: they go from the caller's thread to an io_uring, as those of a raw
//! disk do. The others go to a few threads that may wait, and that enter what they find out into the [extents](extents) for the next
//! request. [`state`] has the rules by which the one never overtakes the other.

mod extents;
mod jobs;
mod queue;
mod state;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Result;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::{BlockImage, CacheMode, Caching, Disk, Durability, Format, Geometry};
use jobs::Jobs;
use queue::FormatQueue;
use state::State;

/// How a [`FormatDisk`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatOptions {
    /// Use of the page cache for what lies at a known place. Tables always go through it.
    pub caching: Caching,
    /// When a write has to be on the medium.
    pub durability: Durability,
    /// How many requests each queue has in the kernel at once.
    pub queue_depth: u16,
    /// How many threads do what may have to wait. At least 1.
    pub workers: u8,
}

impl Default for FormatOptions {
    /// Buffered, durable when flushed, 128 at once, 4 threads.
    fn default() -> Self {
        Self {
            caching: Caching::Buffered,
            durability: Durability::Flush,
            queue_depth: 128,
            workers: 4,
        }
    }
}

impl FormatOptions {
    /// With what a cache mode says.
    #[must_use]
    pub fn cache(self, mode: CacheMode) -> Self {
        Self {
            caching: mode.caching(),
            durability: mode.durability(),
            ..self
        }
    }
}

/// A [`Format`] as a disk with any number of queues. Clones are the same disk.
///
/// When the last clone and the last queue are gone, the format is flushed and dropped.
#[derive(Clone)]
pub struct FormatDisk {
    shared: Arc<Shared>,
}

/// What the disk's handles and its queues have in common.
struct Shared {
    state: Arc<State>,
    jobs: Arc<Jobs>,
    options: FormatOptions,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl FormatDisk {
    /// A disk of this format.
    ///
    /// # Errors
    ///
    /// The host's: no thread, or `EINVAL` where the page cache is to be bypassed and cannot.
    pub fn new(format: Arc<dyn Format>, options: FormatOptions) -> Result<Self> {
        let state = Arc::new(State::new(format, options)?);
        let jobs = Arc::new(Jobs::default());
        let shared = Arc::new(Shared {
            state,
            jobs,
            options,
            threads: Mutex::default(),
        });
        let mut threads = Vec::new();
        for _ in 0..options.workers.max(1) {
            let (state, jobs) = (Arc::clone(&shared.state), Arc::clone(&shared.jobs));
            let thread = std::thread::Builder::new()
                .name("image".to_owned())
                .spawn(move || jobs.work(&state));
            match thread {
                Ok(thread) => threads.push(thread),
                // One is enough.
                Err(_) if !threads.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        *shared
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(Self { shared })
    }

    /// The format, as it is now.
    #[must_use]
    pub fn format(&self) -> Arc<dyn Format> {
        self.shared.state.format()
    }

    /// Forgets where `len` bytes at `offset` lie, and returns when no request uses what was known of them any more: the format is asked
    /// again for each request that comes. **Waits** for requests in flight, so it is not for a thread that serves a queue of this disk.
    pub fn forget(&self, offset: u64, len: u64) {
        self.shared.state.forget(offset, len);
    }

    /// Runs `change` while no request is under way, with all forgotten; it may put another format in the old one's place, or change what
    /// the old one does. Requests that come meanwhile wait. **Waits**, as [`forget`](Self::forget) does.
    ///
    /// # Errors
    ///
    /// The host's, as for [`new`](Self::new), where the format's files cannot be used. The disk then has the format that `change` left, and goes
    /// all the long way.
    pub fn exclusive<R>(&self, change: impl FnOnce(&mut Arc<dyn Format>) -> R) -> Result<R> {
        self.shared.state.exclusive(change)
    }

    /// Makes the disk larger, and all queues serve the new size at once. **Waits**, as [`forget`](Self::forget) does.
    ///
    /// # Errors
    ///
    /// The format's.
    pub fn grow(&self, sectors: u64) -> Result<()> {
        self.exclusive(|format| format.grow(sectors))?
    }

    /// Brings all that was completed to the medium. **Waits** for it.
    ///
    /// # Errors
    ///
    /// The format's.
    pub fn flush(&self) -> Result<()> {
        self.shared.state.flush()
    }
}

impl Disk for FormatDisk {
    fn geometry(&self) -> Geometry {
        self.shared.state.geometry()
    }

    fn open_queue(&self) -> Result<Box<dyn BlockImage>> {
        Ok(Box::new(FormatQueue::new(Arc::clone(&self.shared))?))
    }
}

impl fmt::Debug for FormatDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FormatDisk")
            .field("geometry", &self.geometry())
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.jobs.stop();
        let threads = std::mem::take(
            self.threads
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of an image panicked");
            }
        }
        if let Err(error) = self.state.flush() {
            tracing::error!(%error, "the image's last flush failed");
        }
    }
}
