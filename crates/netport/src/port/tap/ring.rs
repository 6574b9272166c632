//! Writing several frames by one system call: io_uring.
//!
//! Reading by it was tried as well, some frames ahead of who asks for them. How many wait is not known, so most calls ask for frames that are not
//! there, which costs more than the calls that it saves; and a large frame would be copied once more.

// UNSAFETY: io_uring is given addresses, which have to stay good until it is done with them: nothing here returns before that.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, squeue, types};

use crate::Part;
use crate::port::Frame;
use crate::port::vectored::Iovec;
use crate::vnet::{self, VNET_HDR_LEN};

/// Frames of one call.
const ENTRIES: u32 = 64;
/// The kernel's limit for the pieces of a frame; there are far fewer.
const IOV_MAX: usize = 1024;

/// Said for each entry: that the file is not to be waited for is not enough, io_uring would wait in its own way.
const NOWAIT: i32 = libc::RWF_NOWAIT;

/// A ring for one queue of a tap.
pub(super) struct WriteRing {
    ring: IoUring,
    /// Kept between calls for their memory.
    headers: Vec<[u8; VNET_HDR_LEN]>,
    iov: Vec<Iovec>,
}

impl WriteRing {
    /// A ring of its own for a tap's queue. The tap is not registered with it: a ring goes away only some time after it is
    /// closed, and the tap would stay in use for so long.
    ///
    /// # Errors
    ///
    /// The kernel has no io_uring, or not for this process; or a tap cannot be used through it without waiting (before Linux 6.4).
    pub(super) fn new(tap: BorrowedFd<'_>) -> io::Result<Self> {
        let mut ring = Self {
            ring: IoUring::new(ENTRIES)?,
            headers: Vec::new(),
            iov: Vec::new(),
        };
        ring.probe(tap)?;
        Ok(ring)
    }

    /// Writes a frame that is none, which the driver refuses, if it is asked at all.
    fn probe(&mut self, tap: BorrowedFd<'_>) -> io::Result<()> {
        self.iov.clear();
        self.iov.push(Iovec(Part::from(&[0][..]).iovec()));
        let mut refused = 0;
        for (index, iov) in self.iov.iter().enumerate() {
            let iov = std::ptr::from_ref(iov).cast();
            let entry = opcode::Writev::new(types::Fd(tap.as_raw_fd()), iov, 1);
            // SAFETY: as in `write_some`; the byte is a constant.
            unsafe { push(&mut self.ring, &entry.rw_flags(NOWAIT).build(), index) };
        }
        wait(&mut self.ring, |_, result| refused = -result);
        self.iov.clear();
        if refused == libc::EINVAL {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(refused))
    }

    /// Writes the frames in order, and notes in each whether the kernel took it.
    pub(super) fn write(&mut self, tap: BorrowedFd<'_>, batch: &mut [Frame<'_>]) {
        for frames in batch.chunks_mut(ENTRIES as usize) {
            self.write_some(types::Fd(tap.as_raw_fd()), frames);
        }
    }

    /// At most `ENTRIES` frames.
    fn write_some(&mut self, tap: types::Fd, frames: &mut [Frame<'_>]) {
        self.headers.clear();
        self.headers
            .extend(frames.iter().map(|frame| vnet::emit(&frame.offload)));
        self.iov.clear();
        for (frame, header) in frames.iter().zip(&self.headers) {
            self.iov.push(Iovec(Part::from(&header[..]).iovec()));
            let parts = frame.parts.iter().take(IOV_MAX - 1);
            self.iov.extend(parts.map(|part| Iovec(part.iovec())));
        }
        let mut at = 0;
        for (index, frame) in frames.iter_mut().enumerate() {
            frame.taken = false;
            let count = frame.parts.len().min(IOV_MAX - 1) + 1;
            let Some(iov) = self.iov.get(at..at + count) else {
                break;
            };
            at += count;
            let count = u32::try_from(count).unwrap_or(0);
            let entry = opcode::Writev::new(tap, iov.as_ptr().cast(), count);
            // SAFETY: the entry names `iov`, and that the header and the frame's parts. None of them changes place or ends before
            // `wait`: `self.iov` and `self.headers` are filled already, and `frames` is borrowed.
            unsafe { push(&mut self.ring, &entry.rw_flags(NOWAIT).build(), index) };
        }
        wait(&mut self.ring, |index, result| {
            if let Some(frame) = frames.get_mut(index) {
                frame.taken = result >= 0;
            }
        });
        self.iov.clear();
    }
}

/// Puts an entry into the ring, under a number of the caller's.
///
/// # Safety
///
/// What it names stays where it is until `wait` has returned.
unsafe fn push(ring: &mut IoUring, entry: &squeue::Entry, index: usize) {
    let entry = entry.clone().user_data(index as u64);
    // SAFETY: by the caller. There is room for as many as are pushed between two waits; where there were none, it would not be done.
    let _ = unsafe { ring.submission().push(&entry) };
}

/// Submits what is in the ring, and waits until all of it is done. Gives each entry's number and result to `done`.
fn wait(ring: &mut IoUring, mut done: impl FnMut(usize, i32)) {
    let mut left = ring.submission().len();
    while left > 0 {
        // A signal, or memory that is short for a moment. Whatever it is, the kernel may still have entries, so there is no way
        // out of here but to wait for them.
        if ring.submit_and_wait(left).is_err() {
            std::thread::yield_now();
        }
        for entry in ring.completion() {
            left = left.saturating_sub(1);
            let index = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            done(index, entry.result());
        }
    }
}

impl std::fmt::Debug for WriteRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteRing").finish_non_exhaustive()
    }
}
