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

use crate::disk_op::Op;

/// A file, an io_uring, and a page-aligned buffer for each request in flight.
pub(crate) struct RawDisk {
    /// Before the buffers, so that the kernel has let go of them when they are freed.
    uring: IoUring,
    buffers: Vec<HeapPages>,
    _file: File,
}

impl RawDisk {
    /// Opens a file for `depth` requests of `pages` pages at a time, past the page cache or through it.
    pub(crate) fn open(path: &Path, direct: bool, depth: usize, pages: usize) -> Result<Self> {
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
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

    /// `count` requests of a whole buffer each at the offsets that `next` gives, as many at a time as there are buffers; how long it took.
    pub(crate) fn run(
        &mut self,
        op: Op,
        count: u64,
        mut next: impl FnMut() -> u64,
    ) -> Result<Duration> {
        let begun = Instant::now();
        let mut free: Vec<usize> = (0..self.buffers.len()).collect();
        let (mut started, mut done) = (0, 0);
        while done < count {
            while started < count
                && let Some(n) = free.pop()
            {
                let buffer = self.buffers.get(n).context("a buffer")?;
                let len = u32::try_from(buffer.len())?;
                let (file, at) = (types::Fixed(0), buffer.as_ptr().as_ptr());
                let entry = match op {
                    Op::Read => opcode::Read::new(file, at, len).offset(next()).build(),
                    Op::Write => opcode::Write::new(file, at, len).offset(next()).build(),
                };
                let entry = entry.user_data(n as u64);
                // SAFETY: the buffer is this request's alone until its completion; this loop does not end before, and were the ring
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
                    "a request of {len} bytes gave {}",
                    completion.result()
                );
                free.push(n);
                done += 1;
            }
        }
        Ok(begun.elapsed())
    }
}
