//! The limit of the block back end: an io_uring loop on a file, and nothing else.

// UNSAFETY: the kernel writes into buffers whose addresses it is given.
#![expect(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cantle_abi::SharedMemory;
use cantle_abi::ring::HeapPages;
use io_uring::{IoUring, opcode, types};

/// A file, an io_uring, and a page-aligned buffer for each read in flight.
pub(crate) struct RawDisk {
    /// Before the buffers, so that the kernel has let go of them when they are freed.
    uring: IoUring,
    buffers: Vec<HeapPages>,
    _file: File,
}

impl RawDisk {
    /// Opens a file for `depth` reads of `pages` pages at a time, past the page cache or through it.
    pub(crate) fn open(path: &Path, direct: bool, depth: usize, pages: usize) -> Result<Self> {
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let entries = u32::try_from(depth)?.next_power_of_two();
        let uring = IoUring::builder()
            .setup_coop_taskrun()
            .build(entries)
            .or_else(|_| IoUring::new(entries))
            .context("no io_uring")?;
        uring.submitter().register_files(&[file.as_raw_fd()])?;
        Ok(Self {
            uring,
            buffers: (0..depth).map(|_| HeapPages::new(pages)).collect(),
            _file: file,
        })
    }

    /// `count` reads of a whole buffer each at the offsets that `next` gives, as many at a time as there are buffers; how long it took.
    pub(crate) fn reads(&mut self, count: u64, mut next: impl FnMut() -> u64) -> Result<Duration> {
        let begun = Instant::now();
        let mut free: Vec<usize> = (0..self.buffers.len()).collect();
        let (mut started, mut done) = (0, 0);
        while done < count {
            while started < count
                && let Some(n) = free.pop()
            {
                let buffer = self.buffers.get(n).context("a buffer")?;
                let len = u32::try_from(buffer.len())?;
                let entry = opcode::Read::new(types::Fixed(0), buffer.as_ptr().as_ptr(), len)
                    .offset(next())
                    .build()
                    .user_data(n as u64);
                // SAFETY: the buffer is this read's alone until its completion; this loop does not end before, and were the ring
                // dropped on an error, that happens before the buffers are.
                unsafe { self.uring.submission().push(&entry) }?;
                started += 1;
            }
            self.uring.submit_and_wait(1)?;
            for completion in self.uring.completion() {
                let n = usize::try_from(completion.user_data())?;
                let len = self.buffers.get(n).context("a buffer")?.len();
                ensure!(
                    usize::try_from(completion.result()) == Ok(len),
                    "a read of {len} bytes gave {}",
                    completion.result()
                );
                free.push(n);
                done += 1;
            }
        }
        Ok(begun.elapsed())
    }
}
