//! One descriptor that stands for all that a back end waits for.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// What there is to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Xenstore.
    Bus,
    /// The event channel of the tx ring, or of both rings.
    Tx,
    /// The event channel of the rx ring, where it has its own.
    Rx,
    /// The port.
    Port,
    /// Work that was left over.
    Again,
    /// Whoever wants the back end to end.
    Stop,
}

impl Source {
    fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// Which sources are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready(u64);

impl Ready {
    pub(crate) fn has(self, source: Source) -> bool {
        self.0 & source.bit() != 0
    }
}

/// An epoll instance over the sources.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
        })
    }

    /// Adds a source. The port is watched for changes only, so that frames which nobody can take yet do not wake anybody.
    pub(crate) fn add(&self, fd: RawFd, source: Source) -> io::Result<()> {
        let mut events = EventSet::IN;
        if source == Source::Port {
            events |= EventSet::EDGE_TRIGGERED;
        }
        let event = EpollEvent::new(events, source.bit());
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    /// Removes a descriptor that was added. It must be done before the descriptor is closed: another copy of it may stay open.
    pub(crate) fn remove(&self, fd: RawFd) {
        // It fails only for a descriptor that was not added.
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// Waits for any source, `timeout` milliseconds at most (-1 for ever).
    pub(crate) fn wait(&self, timeout: i32) -> io::Result<Ready> {
        let mut events = [EpollEvent::default(); 8];
        let count = match self.epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let ready = events.iter().take(count);
        Ok(Ready(ready.fold(0, |all, event| all | event.data())))
    }
}

impl AsRawFd for Poller {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}
