//! Events between an interface's threads, and a clock among them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Something that others signal.
#[derive(Debug)]
pub(crate) struct Event(OwnedFd);

impl Event {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC,
        )?))
    }

    /// Makes it readable. A counter that is not full takes one more; a full one is readable anyhow.
    pub(crate) fn signal(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable, if it was not.
    pub(crate) fn take(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Becomes readable at a time. One that is not set costs nothing.
#[derive(Debug)]
pub(crate) struct Timer {
    fd: OwnedFd,
    set: Option<Instant>,
}

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            fd: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            set: None,
        })
    }

    /// Makes it readable at `when`, or not at all.
    pub(crate) fn set(&mut self, when: Option<Instant>, now: Instant) -> io::Result<()> {
        if self.set == when {
            return Ok(());
        }
        let nothing = Timespec::default();
        let value = when.map_or(nothing, |when| {
            // All zeroes would be never.
            let left = when
                .saturating_duration_since(now)
                .max(Duration::from_nanos(1));
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let spec = Itimerspec {
            it_interval: nothing,
            it_value: value,
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        self.set = when;
        Ok(())
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.is_some()
    }

    /// Makes it unreadable until it is set again.
    pub(crate) fn take(&mut self) {
        self.set = None;
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
