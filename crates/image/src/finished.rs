//! Completions that wait, for images that finish requests without the kernel's help.

use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::Completion;

/// A list of completions with a descriptor that is readable while it is not empty.
#[derive(Debug)]
pub struct Finished {
    list: Vec<Completion>,
    event: OwnedFd,
    signalled: bool,
}

impl Finished {
    /// An empty list.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self {
            list: Vec::new(),
            event,
            signalled: false,
        })
    }

    /// Adds a completion; [`publish`](Self::publish) makes the descriptor say so.
    pub fn push(&mut self, completion: Completion) {
        self.list.push(completion);
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Makes the descriptor readable where a completion waits.
    ///
    /// # Errors
    ///
    /// The descriptor does not take the signal.
    pub fn publish(&mut self) -> Result<()> {
        if !self.list.is_empty() && !self.signalled {
            rustix::io::write(&self.event, &1_u64.to_ne_bytes())?;
            self.signalled = true;
        }
        Ok(())
    }

    /// Moves all that waits to `done`.
    pub fn collect(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.list);
        if self.signalled {
            let mut count = [0; 8];
            // It was signalled and only this value reads it. Were it not so, a waiter would wake for nothing once.
            let _ = rustix::io::read(&self.event, &mut count);
            self.signalled = false;
        }
    }

    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
