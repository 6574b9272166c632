//! A port to nowhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use super::{Frame, NetPort, Received};
use crate::{Offloads, PartMut};

/// A port that takes every frame, forgets it, and never gives one: an interface with nothing behind it.
#[derive(Debug)]
pub struct NullPort {
    silent: OwnedFd,
}

impl NullPort {
    /// A new one.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            silent: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }
}

impl NetPort for NullPort {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        for frame in batch {
            frame.taken = true;
        }
    }

    fn receive(&mut self, _into: &mut [PartMut<'_>]) -> io::Result<Received> {
        Ok(Received::Nothing)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.silent.as_fd()
    }

    fn accept(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }
}
