//! A limit on how many signals a domain sends to others: it is held back, they are not.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How many signals a domain may send to other domains before it is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In the long run, each second. 0 counts as 1.
    pub per_second: u32,
    /// At once, after a rest. 0 counts as 1.
    pub burst: u32,
}

/// The longest debt that is remembered: a domain whose host did not hold it back is not held for ever afterwards.
const LONGEST: u64 = 1_000_000_000;

/// When the next signal is due, at the limit's pace (the generic cell rate algorithm): signals up to a burst ahead of that are
/// free, those beyond it are delivered too, but their sender owes the time.
pub(crate) struct Rate {
    /// Nanoseconds a signal; 0 for no limit.
    interval: AtomicU64,
    /// How far ahead is free, in nanoseconds.
    ahead: AtomicU64,
    /// When the next one is due, in nanoseconds since `epoch`.
    due: AtomicU64,
    /// Signals that came too early.
    early: AtomicU64,
    epoch: Instant,
}

impl Rate {
    pub(crate) fn new() -> Self {
        Self {
            interval: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            due: AtomicU64::new(0),
            early: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }

    /// Relaxed, here and below: figures that nothing else depends on. A signal at the same time goes by the old or the new limit.
    pub(crate) fn set(&self, limit: Option<RateLimit>) {
        let interval = limit.map_or(0, |limit| {
            1_000_000_000 / u64::from(limit.per_second.max(1))
        });
        let burst = limit.map_or(0, |limit| u64::from(limit.burst.max(1)));
        self.ahead
            .store(interval.max(1).saturating_mul(burst), Relaxed);
        self.due.store(0, Relaxed);
        let interval = if limit.is_some() { interval.max(1) } else { 0 };
        self.interval.store(interval, Relaxed);
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.interval.load(Relaxed) != 0
    }

    /// Counts a signal.
    pub(crate) fn count(&self) {
        let interval = self.interval.load(Relaxed);
        if interval != 0 {
            self.count_at(self.now(), interval);
        }
    }

    /// How long the domain is to be held back from now on.
    pub(crate) fn owed(&self) -> Option<Duration> {
        if self.interval.load(Relaxed) == 0 {
            return None;
        }
        self.owed_at(self.now())
    }

    pub(crate) fn early(&self) -> u64 {
        self.early.load(Relaxed)
    }

    fn count_at(&self, now: u64, interval: u64) {
        let free = now + self.ahead.load(Relaxed);
        let next = |due: u64| Some((due.max(now) + interval).min(free + LONGEST));
        let (Ok(due) | Err(due)) = self.due.fetch_update(Relaxed, Relaxed, next);
        if due.max(now) + interval > free {
            self.early.fetch_add(1, Relaxed);
        }
    }

    fn owed_at(&self, now: u64) -> Option<Duration> {
        let free = now + self.ahead.load(Relaxed);
        let owed = self.due.load(Relaxed).checked_sub(free)?;
        (owed > 0).then_some(Duration::from_nanos(owed))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn limited() -> (Rate, u64) {
        let rate = Rate::new();
        rate.set(Some(RateLimit {
            per_second: 1000,
            burst: 5,
        }));
        (rate, MS)
    }

    #[test]
    fn a_burst_is_free_and_the_rest_is_owed() {
        let (rate, interval) = limited();
        for _ in 0..5 {
            rate.count_at(MS, interval);
        }
        assert_eq!((rate.owed_at(MS), rate.early()), (None, 0));
        for n in 1..=3 {
            rate.count_at(MS, interval);
            assert_eq!(rate.owed_at(MS), Some(Duration::from_millis(n)));
        }
        assert_eq!(rate.early(), 3);
        assert_eq!(rate.owed_at(3 * MS), Some(Duration::from_millis(1)));
        assert_eq!(rate.owed_at(4 * MS), None);
    }

    #[test]
    fn at_its_pace_nobody_is_held() {
        let (rate, interval) = limited();
        for n in 0..100_000 {
            rate.count_at(n * interval, interval);
            assert_eq!(rate.owed_at(n * interval), None);
        }
    }

    #[test]
    fn a_debt_is_bounded_and_ends_with_the_limit() {
        let (rate, interval) = limited();
        for _ in 0..10_000 {
            rate.count_at(MS, interval);
        }
        assert_eq!(rate.owed_at(MS), Some(Duration::from_secs(1)));
        rate.set(None);
        assert_eq!(rate.owed(), None);
        rate.count();
        assert_eq!(rate.early(), 9995);
    }

    #[test]
    fn limits_without_numbers_are_still_limits() {
        let rate = Rate::new();
        for (per_second, burst) in [(0, 0), (u32::MAX, u32::MAX)] {
            rate.set(Some(RateLimit { per_second, burst }));
            rate.count();
            rate.count();
            let owed = rate.owed();
            assert_eq!(owed.is_some(), per_second == 0, "{owed:?}");
        }
    }
}
