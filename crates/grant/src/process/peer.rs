//! The back end's process as the broker sees it from outside: its page tables, and its end.

// UNSAFETY: a system call that no library wraps.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use cantle_abi::PAGE_SIZE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::protocol::MAX_ITEMS;

/// Bytes of an entry of `/proc/PID/pagemap`.
const ENTRY: usize = 8;
/// Its bits that say that something is in the page table: present, swapped (or poison, or being moved).
const SOMETHING: u64 = 1 << 63 | 1 << 62;
/// `MADV_COLD`.
const COLD: libc::c_int = 20;

/// A process that is not ours, held so that its number cannot become another's.
#[derive(Debug)]
pub(super) struct Peer {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Peer {
    /// The process of this number, which its parent has not waited for yet.
    pub(super) fn new(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, pidfd })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends the process at once.
    pub(super) fn kill(&self) {
        // It fails where the process has ended.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Whether the process has ended, all its threads and its memory with it; waits for that at most so long.
    pub(super) fn has_ended(&self, wait: Duration) -> bool {
        let timeout = Timespec::try_from(wait).ok();
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref())).is_ok_and(|ready| ready > 0)
    }

    /// Waits until no CPU remembers what was taken out of the process's page tables before this call.
    ///
    /// A page table's entry is gone a moment before the last CPU has forgotten it, and a thread that is taken off its CPU in that moment can make
    /// it a long one. The kernel counts such pending flushes for each address space, and whoever gathers page table entries meanwhile
    /// flushes them all. `MADV_COLD` gathers, whatever it finds, and is the one advice with that effect that may be given to
    /// another process on every kernel that is supported.
    ///
    /// `page` must be mapped there (not present: mapped). Needs the right to look into the process (`CAP_SYS_PTRACE`), and
    /// `CAP_SYS_NICE`.
    pub(super) fn flush(&self, page: u64) -> io::Result<()> {
        let range = libc::iovec {
            iov_base: std::ptr::without_provenance_mut(
                usize::try_from(page).map_err(io::Error::other)?,
            ),
            iov_len: PAGE_SIZE,
        };
        // SAFETY: the vector is one range, in the other process's memory; the advice changes no contents, anywhere.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                self.pidfd.as_raw_fd(),
                &raw const range,
                1_usize,
                COLD,
                0_u32,
            )
        };
        match usize::try_from(done) {
            Ok(PAGE_SIZE) => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Another process's page tables, to be looked at: its `/proc/self/pagemap`, opened by itself.
#[derive(Debug)]
pub(super) struct Pagemap(File);

impl Pagemap {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// For each of the pages (addresses, in ascending order): whether its entry is empty. Neighbours are read at once.
    pub(super) fn empty(&self, pages: &[u64]) -> io::Result<Vec<bool>> {
        let step = PAGE_SIZE as u64;
        let mut empty = Vec::with_capacity(pages.len());
        for run in pages.chunk_by(|a, b| a.checked_add(step) == Some(*b)) {
            for run in run.chunks(MAX_ITEMS) {
                let Some(first) = run.first() else { continue };
                let mut entries = [0; MAX_ITEMS * ENTRY];
                let entries = entries.get_mut(..run.len() * ENTRY).unwrap_or_default();
                self.0.read_exact_at(entries, first / step * ENTRY as u64)?;
                let words = entries.chunks_exact(ENTRY);
                empty.extend(words.map(is_empty));
            }
        }
        Ok(empty)
    }

    /// Whether a whole range has no entry. Takes time by its length.
    pub(super) fn all_empty(&self, start: u64, len: u64) -> io::Result<bool> {
        const CHUNK: usize = 128 * 1024;
        let mut buffer = vec![0; CHUNK];
        let step = PAGE_SIZE as u64;
        let mut at = start / step * ENTRY as u64;
        let mut left = len / step * ENTRY as u64;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let part = buffer.get_mut(..now).unwrap_or_default();
            self.0.read_exact_at(part, at)?;
            if !part.chunks_exact(ENTRY).all(is_empty) {
                return Ok(false);
            }
            at += now as u64;
            left -= now as u64;
        }
        Ok(true)
    }
}

fn is_empty(entry: &[u8]) -> bool {
    let word = entry.try_into().map_or(u64::MAX, u64::from_ne_bytes);
    word & SOMETHING == 0
}
