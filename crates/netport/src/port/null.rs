//! A port to nowhere.

use std::io;
use std::os::fd::BorrowedFd;

use super::{Frame, NetDevice, NetPort, Received};
use crate::{Offloads, PartMut};

/// A port that takes every frame, forgets it, and never gives one: an interface with nothing behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullPort;

impl NetPort for NullPort {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        for frame in batch {
            frame.taken = true;
        }
    }

    fn receive(&mut self, _into: &mut [PartMut<'_>]) -> io::Result<Received> {
        Ok(Received::Nothing)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn accept(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }
}

impl NetDevice for NullPort {
    fn queues_max(&self) -> u32 {
        u32::MAX
    }

    fn open_queue(&self) -> io::Result<Box<dyn NetPort>> {
        Ok(Box::new(Self))
    }
}
