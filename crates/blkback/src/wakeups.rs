//! What a backend sleeps on.

use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;

/// What is readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Xenstore has an event.
    pub(crate) store: bool,
    /// The front end has notified.
    pub(crate) channel: bool,
    /// Somebody asked `run` to return.
    pub(crate) stop: bool,
    /// The embedder has said something.
    pub(crate) control: bool,
    /// A worker has come to rest, or has failed.
    pub(crate) worker: bool,
}

/// One of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Store = 0,
    Channel = 1,
    Stop = 2,
    Control = 3,
    Worker = 4,
}

/// Two epoll sets. The inner one holds what others signal, so that an image sleeps on a single descriptor that stays the
/// same through every connection. The outer one adds the image's own, for whoever polls the whole backend.
#[derive(Debug)]
pub(crate) struct Wakeups {
    inner: OwnedFd,
    outer: OwnedFd,
}

impl Wakeups {
    pub(crate) fn new(completions: BorrowedFd<'_>) -> Result<Self> {
        let inner = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let outer = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&outer, completions, 0)?;
        watch(&outer, inner.as_fd(), 0)?;
        Ok(Self { inner, outer })
    }

    /// Hears another image from now on; the old one is still open.
    pub(crate) fn change_image(&self, old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<()> {
        epoll::delete(&self.outer, old)?;
        watch(&self.outer, new, 0)
    }

    pub(crate) fn add(&self, source: Source, fd: BorrowedFd<'_>) -> Result<()> {
        watch(&self.inner, fd, source as u64)
    }

    /// To be called while the descriptor is still open: another process may hold the same open file.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        if let Err(error) = epoll::delete(&self.inner, fd) {
            tracing::error!(%error, "a descriptor was not polled");
        }
    }

    /// Whether these are heard: not while what they say has to wait for the disk.
    pub(crate) fn hear(&self, source: Source, fd: BorrowedFd<'_>, hear: bool) -> Result<()> {
        let flags = if hear {
            epoll::EventFlags::IN
        } else {
            epoll::EventFlags::empty()
        };
        let data = epoll::EventData::new_u64(source as u64);
        Ok(epoll::modify(&self.inner, fd, data, flags)?)
    }

    /// What is readable now.
    pub(crate) fn look(&self) -> Result<Ready> {
        let mut events = Vec::with_capacity(8);
        let now = rustix::event::Timespec::default();
        match epoll::wait(&self.inner, spare_capacity(&mut events), Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has = |source: Source| events.iter().any(|event| event.data.u64() == source as u64);
        Ok(Ready {
            store: has(Source::Store),
            channel: has(Source::Channel),
            stop: has(Source::Stop),
            control: has(Source::Control),
            worker: has(Source::Worker),
        })
    }

    /// Readable when one of the sources is.
    pub(crate) fn inner(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    /// Readable when one of the sources is, or the image has a completion.
    pub(crate) fn outer(&self) -> BorrowedFd<'_> {
        self.outer.as_fd()
    }
}

fn watch(set: &OwnedFd, fd: BorrowedFd<'_>, data: u64) -> Result<()> {
    let data = epoll::EventData::new_u64(data);
    Ok(epoll::add(set, fd, data, epoll::EventFlags::IN)?)
}
