//! What time it is, for aging and limits.

use std::fmt;
use std::time::{Duration, Instant};

/// A clock that never goes back. Tests put in one that they turn themselves.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time since some moment that stays the same.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock, from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    start: Instant,
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}
