//! What other threads left for the service.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use super::slots::Key;
use crate::wake::Wake;

/// The connections that something was queued for by others, and the signal that there are any.
#[derive(Debug)]
pub(super) struct Inbox {
    ready: Mutex<Vec<Key>>,
    wake: Wake,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            ready: Mutex::default(),
            wake: Wake::new()?,
        })
    }

    pub(super) fn leave(&self, key: Key) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ready.is_empty();
        ready.push(key);
        drop(ready);
        if first {
            self.wake.raise();
        }
    }

    pub(super) fn take(&self, into: &mut Vec<Key>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut ready);
    }

    /// Signals without leaving anything.
    pub(super) fn signal(&self) {
        self.wake.raise();
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.fd()
    }
}
