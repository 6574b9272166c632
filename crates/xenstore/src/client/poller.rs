//! One descriptor for others to wait for: readable when the link has something, or when a flag is raised.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::link::Link;
use crate::wake::Wake;

/// An epoll over a link and a flag. As with every epoll, its descriptor is readable while one of them is.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    flag: Wake,
    // What the kernel was told last. Changed by one thread at a time (its owner's lock, or its being `&mut`).
    raised: AtomicBool,
    writing: AtomicBool,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flag = Wake::new()?;
        epoll::add(&epoll, flag.fd(), EventData::new_u64(0), EventFlags::IN)?;
        Ok(Self {
            epoll,
            flag,
            raised: AtomicBool::new(false),
            writing: AtomicBool::new(false),
        })
    }

    pub(super) fn add(&self, link: &Link) -> io::Result<()> {
        self.writing.store(false, Relaxed);
        epoll::add(
            &self.epoll,
            link.as_fd(),
            EventData::new_u64(1),
            EventFlags::IN,
        )?;
        Ok(())
    }

    /// The link is of no use any more, and must not be what keeps the descriptor readable.
    pub(super) fn remove(&self, link: &Link) {
        // It fails only where the link is not there.
        let _ = epoll::delete(&self.epoll, link.as_fd());
    }

    /// Whether to become readable when the link takes bytes, too.
    pub(super) fn want_write(&self, link: &Link, want: bool) -> Result<(), Errno> {
        if self.writing.swap(want, Relaxed) == want {
            return Ok(());
        }
        let events = if want {
            EventFlags::IN | EventFlags::OUT
        } else {
            EventFlags::IN
        };
        epoll::modify(&self.epoll, link.as_fd(), EventData::new_u64(1), events)
    }

    /// Makes the descriptor readable, or leaves that to the link.
    pub(super) fn flag(&self, raise: bool) {
        if self.raised.swap(raise, Relaxed) == raise {
            return;
        }
        if raise {
            self.flag.raise();
        } else {
            self.flag.lower();
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
