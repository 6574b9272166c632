//! Work that is to be done again and again while something is under way.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// How often it is looked.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 250_000_000,
};
const NEVER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// A timer that is not set.
pub(crate) fn ticks() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    Ok(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

/// Sets the timer, or not.
pub(crate) fn set_ticks(ticks: &OwnedFd, on: bool) -> io::Result<()> {
    let time = if on { TICK } else { NEVER };
    let spec = Itimerspec {
        it_interval: time,
        it_value: time,
    };
    timerfd_settime(ticks, TimerfdTimerFlags::empty(), &spec)?;
    Ok(())
}

/// Takes what a timer says that has run out.
pub(crate) fn take_tick(ticks: &OwnedFd) {
    // Set again meanwhile: nothing to read.
    let _ = rustix::io::read(ticks, &mut [0; 8]);
}
