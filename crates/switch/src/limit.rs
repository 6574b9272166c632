//! Limits in frames per second: token buckets.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A limit: so many frames per second, and so many at once after a quiet time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Frames per second in the long run.
    pub per_second: u32,
    /// Frames at once. With 0, nothing passes.
    pub burst: u32,
}

/// One token, in the unit that a bucket counts: at a rate of 1 per second, a unit comes each nanosecond.
const TOKEN: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Level {
    units: u64,
    at: Duration,
}

/// A bucket: full at first. Its limit comes with each use, so it may change at any time.
#[derive(Debug, Default)]
pub(crate) struct Bucket(Mutex<Option<Level>>);

impl Bucket {
    /// Takes a token, if there is one.
    pub(crate) fn take(&self, limit: Limit, now: Duration) -> bool {
        // At most 2^32 * 10^9, below 2^62.
        let full = u64::from(limit.burst) * TOKEN;
        let mut level = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Level { units, at } = level.unwrap_or(Level {
            units: full,
            at: now,
        });
        let gained = now.saturating_sub(at).as_nanos() * u128::from(limit.per_second);
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        let units = units.saturating_add(gained).min(full);
        let left = units.checked_sub(TOKEN);
        *level = Some(Level {
            units: left.unwrap_or(units),
            at: at.max(now),
        });
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let bucket = Bucket::default();
        let limit = Limit {
            per_second: 10,
            burst: 3,
        };
        let taken = |ms| bucket.take(limit, Duration::from_millis(ms));
        assert_eq!(
            [taken(0), taken(0), taken(0), taken(0)],
            [true, true, true, false]
        );
        assert_eq!(
            [taken(99), taken(100), taken(100), taken(150)],
            [false, true, false, false]
        );
        assert_eq!(
            [taken(200), taken(10_000), taken(10_000), taken(10_000)],
            [true; 4]
        );
        assert!(!taken(10_000));
    }

    #[test]
    fn extremes_are_survived() {
        let none = Limit {
            per_second: u32::MAX,
            burst: 0,
        };
        let most = Limit {
            burst: u32::MAX,
            ..none
        };
        let bucket = Bucket::default();
        assert!(!bucket.take(none, Duration::ZERO));
        assert!(bucket.take(most, Duration::MAX));
        // A clock that went back, as it must not.
        assert!(bucket.take(most, Duration::ZERO));
        assert!(!bucket.take(none, Duration::MAX));
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_burst_and_the_rate(
            per_second in 0_u32..1000, burst in 0_u32..20,
            steps in proptest::collection::vec(0_u64..50, 1..200),
        ) {
            let (bucket, limit) = (Bucket::default(), Limit { per_second, burst });
            let (mut now, mut passed) = (0, Vec::new());
            for step in steps {
                now += step;
                if bucket.take(limit, Duration::from_millis(now)) {
                    passed.push(now);
                }
            }
            for (from, start) in passed.iter().enumerate() {
                for (to, end) in passed.iter().enumerate().skip(from) {
                    let most = u64::from(burst) + u64::from(per_second) * (end - start) / 1000;
                    prop_assert!((to - from + 1) as u64 <= most);
                }
            }
        }
    }
}
