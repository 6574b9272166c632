//! One descriptor that stands for all that a back end waits for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};

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
    /// Whoever wants the back end to end.
    Stop,
    /// The event channel of the control ring.
    Control,
    /// Another thread that has something for this queue.
    Told,
    /// The time has come that was waited for.
    Timer,
    /// A further queue, or the embedder, has something for the interface's own thread.
    News,
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

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// For ever.
    Endless,
}

/// An epoll instance over the sources.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    /// Adds a source. The port is watched for changes only, so that frames which nobody can take yet do not wake anybody.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        let mut events = epoll::EventFlags::IN;
        if source == Source::Port {
            events |= epoll::EventFlags::ET;
        }
        let data = epoll::EventData::new_u64(source.bit());
        Ok(epoll::add(&self.epoll, fd, data, events)?)
    }

    /// Removes a descriptor that was added. It must be done before the descriptor is closed: another copy of it may stay open.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // It fails only for a descriptor that was not added.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// The sources that are ready, waiting for one if need be.
    pub(crate) fn wait(&self, patience: Patience) -> io::Result<Ready> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timeout = match patience {
            Patience::None => Some(&now),
            Patience::Endless => None,
        };
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 8];
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let ready = events.iter().take(count);
        Ok(Ready(ready.fold(0, |all, event| all | event.data.u64())))
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
