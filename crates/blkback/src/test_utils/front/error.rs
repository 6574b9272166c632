//! What a front end gives up for, and how long it waits first.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use cantle_abi::ring::RingBroken;
use cantle_evtchn::EvtchnError;
use cantle_xenstore::Error as StoreError;
use cantle_xenstore::xenbus::XenbusState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a front end waits for anything before it gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Why the front end gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// Xenstore refused something.
    #[error("xenstore failed")]
    Store(#[from] StoreError),
    /// No event channel.
    #[error("event channels failed")]
    Channel(#[from] EvtchnError),
    /// The back end broke the ring.
    #[error("the back end broke the ring")]
    Ring(#[from] RingBroken),
    /// The back end answered a request so.
    #[error("the back end answered {0}")]
    Status(i16),
    /// A response names an operation that none was asked for with: Linux gives the disk up.
    #[error("the back end answered operation {0}")]
    Operation(u8),
    /// The back end went to a state that leads nowhere.
    #[error("the back end is {0}")]
    State(XenbusState),
    /// A key of the back end is no number.
    #[error("the back end's {0} is no number")]
    Key(&'static str),
    /// Nothing happened for a long time.
    #[error("the back end does not answer")]
    Silence,
    /// The host failed.
    #[error("the host failed")]
    Host(#[from] io::Error),
}

/// Sleeps until a descriptor is readable, or `end` has come.
pub(super) fn sleep_on(fd: BorrowedFd<'_>, end: Instant) -> Result<(), FrontError> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(FrontError::Silence);
    }
    let timeout = Timespec::try_from(left).map_err(|_| FrontError::Silence)?;
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(FrontError::Host(error.into())),
    }
}
