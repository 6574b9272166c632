//! Descriptors of the caller's that are waited for beside the service's own, so that one thread and one wait are enough.

use std::io;
use std::os::fd::AsFd;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::Service;

/// The upper half of such an event's number. No [`Key`](super::slots::Key) has it: a place would have to be given away four thousand million times.
const MARK: u32 = 0xffff_fffe;

fn event(token: u32) -> u64 {
    u64::from(MARK) << 32 | u64::from(token)
}

/// The caller's token, where an event is of its descriptors.
pub(super) fn token(data: u64) -> Option<u32> {
    let ours = data >> 32 == u64::from(MARK);
    ours.then(|| u32::try_from(data & u64::from(u32::MAX)).ok())?
}

impl Service {
    /// Waits for a descriptor of the caller's, too: [`run_once`](Self::run_once) returns when it is readable, and
    /// [`take_watched`](Self::take_watched) gives its token, again and again until it is read.
    ///
    /// # Errors
    ///
    /// What the kernel says about the descriptor.
    pub fn watch(&mut self, fd: impl AsFd, token: u32) -> io::Result<()> {
        let data = EventData::new_u64(event(token));
        Ok(epoll::add(&self.epoll, fd, data, EventFlags::IN)?)
    }

    /// Waits for it no longer.
    ///
    /// # Errors
    ///
    /// What the kernel says about the descriptor.
    pub fn unwatch(&mut self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// The tokens of those that were readable when [`run_once`](Self::run_once) looked.
    pub fn take_watched(&mut self) -> Vec<u32> {
        core::mem::take(&mut self.watched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_apart_from_everything_else() {
        for ours in [0, 1, u32::MAX] {
            assert_eq!(token(event(ours)), Some(ours));
        }
        for other in [0, u64::MAX, u64::MAX - 1, 0xffff_fffd << 32, 7 << 32 | 7] {
            assert_eq!(token(other), None, "{other:#x}");
        }
    }
}
