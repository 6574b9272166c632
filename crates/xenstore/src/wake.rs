//! An eventfd as a flag.

// UNSAFETY: vmm-sys-util's EventFd offers no borrowed descriptor, only its number.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Readable while it is raised.
#[derive(Debug)]
pub(crate) struct Wake(EventFd);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Self)
    }

    pub(crate) fn raise(&self) {
        // It fails only where it is raised 2^64 - 1 times over, and then it is readable.
        let _ = self.0.write(1);
    }

    pub(crate) fn lower(&self) {
        // It fails only where it is not raised.
        let _ = self.0.read();
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
