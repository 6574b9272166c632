//! Events between a disk's threads, and to its embedder.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};

/// An event that others wait for.
pub(crate) fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

/// Makes it readable. A counter that is not full takes one more; a full one is readable anyhow.
pub(crate) fn signal(event: &OwnedFd) {
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// Makes it unreadable, if it was not.
pub(crate) fn take(event: &OwnedFd) {
    let _ = rustix::io::read(event, &mut [0; 8]);
}
