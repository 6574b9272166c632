//! One system call for a frame in pieces, its virtio header before it.

// UNSAFETY: vectored reads and writes of memory that another party may change exist only as C functions.
#![expect(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::vnet::VNET_HDR_LEN;
use crate::{Part, PartMut};

/// The kernel's limit for one call; a frame has far fewer parts.
const IOV_MAX: usize = 1024;

/// The pieces of the frame that a call is made for; kept between calls for its memory.
#[derive(Debug, Default)]
pub(super) struct Vectored {
    iov: Vec<Iovec>,
}

/// An `iovec` that is only used within the call that filled it in.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Iovec(pub(super) libc::iovec);

// SAFETY: the addresses are never used after the call that wrote them: each call starts by clearing the vector.
unsafe impl Send for Iovec {}

impl std::fmt::Debug for Iovec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Iovec({} bytes)", self.0.iov_len)
    }
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// So many bytes, the header included.
    Bytes(usize),
    /// More than there was room for, or a signal came between.
    Lost,
    /// Nothing waits.
    Nothing,
}

impl Vectored {
    /// Writes the header's first `header_len` bytes and the parts as one frame to something that takes a frame whole or not at all.
    pub(super) fn write(
        &mut self,
        fd: BorrowedFd<'_>,
        header: &[u8],
        parts: &[Part<'_>],
    ) -> io::Result<()> {
        self.iov.clear();
        self.iov.push(Iovec(Part::from(header).iovec()));
        let parts = parts.iter().map(|part| Iovec(part.iovec()));
        self.iov.extend(parts.take(IOV_MAX - 1));
        let count = c_int::try_from(self.iov.len()).unwrap_or(0);
        // SAFETY: each element is the header or a part, valid for reads during this call; `Iovec` is laid out as `iovec`.
        let written = unsafe { libc::writev(fd.as_raw_fd(), self.iov.as_ptr().cast(), count) };
        self.iov.clear();
        if written < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Reads a frame's header and the frame itself, as far as there is room. A frame that fills all the room counts as cut off.
    pub(super) fn read(
        &mut self,
        fd: BorrowedFd<'_>,
        header: &mut [u8; VNET_HDR_LEN],
        into: &mut [PartMut<'_>],
    ) -> io::Result<Read> {
        self.fill(header, into);
        let room: usize = self.iov.iter().map(|part| part.0.iov_len).sum();
        let count = c_int::try_from(self.iov.len()).unwrap_or(0);
        // SAFETY: each element is the header or a part, valid for writes during this call, since `into` is borrowed alone.
        let read = unsafe { libc::readv(fd.as_raw_fd(), self.iov.as_ptr().cast(), count) };
        self.iov.clear();
        match outcome(read)? {
            Read::Bytes(len) if len >= room => Ok(Read::Lost),
            outcome => Ok(outcome),
        }
    }

    fn fill(&mut self, header: &mut [u8], into: &mut [PartMut<'_>]) {
        self.iov.clear();
        self.iov.push(Iovec(PartMut::from(header).iovec()));
        let parts = into.iter().map(|part| Iovec(part.iovec()));
        self.iov.extend(parts.take(IOV_MAX - 1));
    }
}

fn outcome(read: isize) -> io::Result<Read> {
    let Ok(read) = usize::try_from(read) else {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock => Ok(Read::Nothing),
            io::ErrorKind::Interrupted => Ok(Read::Lost),
            _ => Err(error),
        };
    };
    Ok(Read::Bytes(read))
}
