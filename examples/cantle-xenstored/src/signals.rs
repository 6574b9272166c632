//! Signals as something to read.
//!
//! They are blocked for the whole life of the process, which an `exec` does not change: one that comes while the program is replaced
//! waits for the new one.

// UNSAFETY: rustix offers neither the signal mask nor signalfd.
#![expect(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

/// What the daemon listens to.
#[derive(Debug)]
pub(crate) struct Signals(OwnedFd);

impl Signals {
    /// Catches SIGTERM, SIGINT and SIGHUP. To be called before there is a second thread.
    pub(crate) fn catch() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` is filled by sigemptyset before it is used; the calls read it and nothing else.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
            if libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// The next signal that has come.
    pub(crate) fn take(&self) -> Option<Signal> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let len = rustix::io::read(&self.0, &mut info).ok()?;
        // The number is the structure's first field.
        let number = info.get(..len)?.first_chunk::<4>()?;
        Signal::from_named_raw(i32::from_ne_bytes(*number))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
