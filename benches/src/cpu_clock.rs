//! How much CPU time another process, or a thread of this one, has used.

// UNSAFETY: a few calls of the C library that take pointers.
#![expect(unsafe_code)]

use std::io::Error;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The CPU clock of a process: all its threads, those that have ended and the kernel's io_uring workers included, to the nanosecond
/// (the files in /proc count in ticks, or forget threads that have ended).
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// Of any process; of none in particular once it has been waited for, since the number may be given to another.
    ///
    /// # Errors
    ///
    /// No such process.
    pub(crate) fn of(process: u32) -> Result<Self> {
        let mut clock = 0;
        // SAFETY: the pointer is to a variable of the right type.
        let error = unsafe { libc::clock_getcpuclockid(process.cast_signed(), &raw mut clock) };
        if error != 0 {
            bail!(Error::from_raw_os_error(error));
        }
        Ok(Self(clock))
    }

    /// Of the calling thread; other threads may look at it for as long as this one lives.
    ///
    /// # Errors
    ///
    /// The host has no such clocks.
    pub(crate) fn of_this_thread() -> Result<Self> {
        let mut clock = 0;
        // SAFETY: a thread's handle of itself is good, and the pointer is to a variable of the right type.
        let error = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        if error != 0 {
            bail!(Error::from_raw_os_error(error));
        }
        Ok(Self(clock))
    }

    /// The time it has used so far.
    ///
    /// # Errors
    ///
    /// The process is gone.
    pub(crate) fn now(self) -> Result<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is to a variable of the right type.
        if unsafe { libc::clock_gettime(self.0, &raw mut time) } != 0 {
            return Err(Error::last_os_error()).context("no CPU time of the process");
        }
        Ok(Duration::new(
            u64::try_from(time.tv_sec)?,
            u32::try_from(time.tv_nsec)?,
        ))
    }
}

/// The time that this thread has used so far.
///
/// # Errors
///
/// The host has no such clock.
pub(crate) fn thread_time() -> Result<Duration> {
    CpuClock(libc::CLOCK_THREAD_CPUTIME_ID).now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_and_sleep_is_not() {
        let clock = CpuClock::of(std::process::id()).unwrap();
        let before = clock.now().unwrap();
        std::thread::spawn(|| {
            let begun = std::time::Instant::now();
            while begun.elapsed() < Duration::from_millis(20) {}
        })
        .join()
        .unwrap();
        let used = clock.now().unwrap() - before;
        assert!(used > Duration::from_millis(1), "{used:?}");
    }
}
