//! Descriptors that were open when this program began.

// UNSAFETY: a number that another program gave is made an owned descriptor.
#![expect(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::FdFlags;

/// Those that were taken.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes an inherited descriptor, once, and keeps programs started later from inheriting it.
pub(crate) fn take(number: RawFd) -> io::Result<OwnedFd> {
    let refused = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
    if number <= 2 {
        return Err(refused("no inherited descriptor"));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: it is looked at and no more; a number that is not open gives an error.
    let seen = unsafe { BorrowedFd::borrow_raw(number) };
    // What this process opened itself is closed at exec, so what is not was handed to it, and nobody else here owns it.
    if rustix::io::fcntl_getfd(seen)?.contains(FdFlags::CLOEXEC) || !taken.insert(number) {
        return Err(refused("no inherited descriptor, or taken already"));
    }
    rustix::io::fcntl_setfd(seen, FdFlags::CLOEXEC)?;
    // SAFETY: open by the call above, and owned by nobody: inherited, and taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
