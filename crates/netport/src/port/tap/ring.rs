//! Writing a batch of frames by one system call: io_uring.

// UNSAFETY: io_uring is given addresses, which have to stay good until it is done with them: nothing here returns before that.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, types};

use crate::Part;
use crate::port::Frame;
use crate::port::vectored::Iovec;
use crate::vnet::{self, VNET_HDR_LEN};

/// Frames of one call.
const ENTRIES: u32 = 64;
/// The kernel's limit for the pieces of a frame; there are far fewer.
const IOV_MAX: usize = 1024;
/// A ring that writes to one tap.
pub(super) struct WriteRing {
    ring: IoUring,
    /// Kept between calls for their memory.
    headers: Vec<[u8; VNET_HDR_LEN]>,
    iov: Vec<Iovec>,
}

impl WriteRing {
    /// A ring of its own for a tap's queue. The tap is not registered with it: a ring goes away only some time after it is closed,
    /// and the tap would stay in use for so long.
    ///
    /// # Errors
    ///
    /// The kernel has no io_uring, or not for this process.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            ring: IoUring::new(ENTRIES)?,
            headers: Vec::new(),
            iov: Vec::new(),
        })
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
            let entry = opcode::Writev::new(tap, iov.as_ptr().cast(), count)
                .build()
                .user_data(index as u64);
            // SAFETY: the entry names `iov`, and that the header and the frame's parts. None of them changes place or ends before
            // `wait` has seen the entry's completion: `self.iov` and `self.headers` are filled already, and `frames` is borrowed.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                // There is room for all of them, since nothing is left over from the last call.
                break;
            }
        }
        self.wait(frames);
        self.iov.clear();
    }

    /// Submits what is in the ring, and waits until all of it is done.
    fn wait(&mut self, frames: &mut [Frame<'_>]) {
        let mut left = self.ring.submission().len();
        while left > 0 {
            // A signal, or memory that is short for a moment. Whatever it is, the kernel may still have entries, so there is no
            // way out of here but to wait for them.
            if self.ring.submit_and_wait(left).is_err() {
                std::thread::yield_now();
            }
            for done in self.ring.completion() {
                left = left.saturating_sub(1);
                let index = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
                if let Some(frame) = frames.get_mut(index) {
                    frame.taken = done.result() >= 0;
                }
            }
        }
    }
}

impl std::fmt::Debug for WriteRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteRing").finish_non_exhaustive()
    }
}
