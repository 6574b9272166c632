//! A system domain's end of a channel: an eventfd, and a flag that saves writing it twice.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use cantle_abi::{DomId, Port};
use rustix::event::{EventfdFlags, eventfd};

use crate::EvtchnError;
use crate::domain::Domain;

/// Whether a signal waits. `core`'s atomic, and loom's in the model test.
pub(crate) trait Flag {
    /// Sets the flag; returns what it was.
    fn replace(&self, value: bool) -> bool;
    /// Reads it.
    fn get(&self) -> bool;
}

impl Flag for AtomicBool {
    // AcqRel, both ways: the one who takes the signal sees what was written before each signal that it stands for, also of
    // those that found the flag set and wrote nothing.
    fn replace(&self, value: bool) -> bool {
        self.swap(value, Ordering::AcqRel)
    }
    // Acquire pairs with the swap; a signal that is missed here is still in the eventfd.
    fn get(&self) -> bool {
        self.load(Ordering::Acquire)
    }
}

/// The waiting end: the eventfd, and a counter in the model test.
pub(crate) trait Bell {
    /// Adds one.
    fn ring(&self);
    /// Takes all; false where there was none. Never blocks.
    fn still(&self) -> bool;
}

/// An eventfd that does not block.
struct Eventfd(OwnedFd);

impl Bell for Eventfd {
    #[inline]
    fn ring(&self) {
        // Fails at 2^64 - 1 only, and is readable then.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
    fn still(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

/// Signals: rings only where no signal waits yet.
#[inline]
pub(crate) fn signal(flag: &impl Flag, bell: &impl Bell) {
    if !flag.replace(true) {
        bell.ring();
    }
}

/// Takes a waiting signal.
///
/// The bell is stilled *before* the flag falls. Each rise of the flag is followed by one ring, each ring taken once, and only
/// who took it lets the flag fall; so a set flag means that the bell rings, or is about to, or that a taker has not returned
/// yet, who then sees what was signalled. In the other order a ring could be taken for the flag's next rise.
///
/// `direct`: others ring, too, who know of no flag. Theirs is a ring more than the flag tells of: taken for a signaller's own that is about
/// to come, it makes that one's come to a taker who has seen its signal already, which is no harm. Only must the flag not be
/// believed when it is down.
pub(crate) fn take(flag: &impl Flag, bell: &impl Bell, direct: bool) -> bool {
    if !(direct || flag.get()) || !bell.still() {
        return false;
    }
    flag.replace(false);
    true
}

/// One port of a system domain.
pub(crate) struct Endpoint {
    signalled: AtomicBool,
    direct: AtomicBool,
    eventfd: Eventfd,
    pub(crate) owner: DomId,
    pub(crate) domain: Weak<Domain>,
    pub(crate) port: Port,
}

impl Endpoint {
    pub(crate) fn new(domain: &Arc<Domain>, port: Port) -> Result<Self, EvtchnError> {
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| EvtchnError::Eventfd(error.raw_os_error()))?;
        Ok(Self {
            signalled: AtomicBool::new(false),
            direct: AtomicBool::new(false),
            eventfd: Eventfd(eventfd),
            owner: domain.id,
            domain: Arc::downgrade(domain),
            port,
        })
    }

    #[inline]
    pub(crate) fn signal(&self) {
        signal(&self.signalled, &self.eventfd);
    }

    pub(crate) fn take(&self) -> bool {
        // Acquire: who is woken by a ring of another's sees this set, for it was before the eventfd was given away.
        let direct = self.direct.load(Ordering::Acquire);
        take(&self.signalled, &self.eventfd, direct)
    }

    /// The eventfd is about to be given to who writes it and knows of no flag. For good.
    pub(crate) fn make_direct(&self) {
        self.direct.store(true, Ordering::Release);
    }

    pub(crate) fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.0.as_fd()
    }
}

#[cfg(test)]
mod tests;
