//! Requests to KVM that wait until no vCPU is inside of it.
//!
//! To take away a port or a memory slot, KVM waits for all who may still look at it, and a vCPU that waits in the kernel's own
//! `SCHEDOP_poll` counts as such: for as long as the guest likes, or until the very vCPU that makes the request lets go of what
//! the other one polls for, which would be never. A signal ends the poll, and the guest polls again: by then it looks at
//! the new state. So vCPUs are nudged while such a request takes long.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// From a request's begin to the first nudge, and from each to the next, in nanoseconds. Where nobody polls it is over sooner.
const NUDGE_AFTER: i64 = 2_000_000;

/// Requests of the kind that are under way.
#[derive(Debug)]
pub(crate) struct Grace {
    /// Fires while some are.
    timer: OwnedFd,
    requests: Mutex<u32>,
}

impl Grace {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            timer: timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
            )?,
            requests: Mutex::new(0),
        })
    }

    /// Makes such a request.
    pub(crate) fn during<R>(&self, request: impl FnOnce() -> R) -> R {
        self.count(|n| n + 1);
        let result = request();
        self.count(|n| n - 1);
        result
    }

    /// Readable when all vCPUs are to be brought out of the guest.
    pub(crate) fn nudge(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    fn count(&self, change: impl FnOnce(u32) -> u32) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *requests;
        *requests = change(before);
        if (before == 0) == (*requests == 0) {
            return;
        }
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: if *requests == 0 { 0 } else { NUDGE_AFTER },
        };
        let spec = Itimerspec {
            it_interval: time,
            it_value: time,
        };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec) {
            tracing::error!(%error, "the timer that nudges vCPUs cannot be set");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fires_while_a_request_is_under_way() {
        let grace = Grace::new().unwrap();
        let fires = || rustix::io::read(grace.nudge(), &mut [0; 8]).is_ok();
        let wait = || std::thread::sleep(std::time::Duration::from_millis(20));
        grace.during(|| {
            grace.during(wait);
            assert!(fires());
            wait();
            assert!(fires(), "the outer one is not over");
        });
        fires();
        wait();
        assert!(!fires());
    }
}
