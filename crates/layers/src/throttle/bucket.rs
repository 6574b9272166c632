//! A token bucket, as arithmetic: the time is what the caller says.

use std::time::Duration;

const NANOS: i128 = 1_000_000_000;

/// So many tokens come in per second, and at most `burst` are kept.
///
/// A request takes its tokens when there are enough. One that is larger than the bucket takes them when it is full, and leaves a debt that
/// is paid before the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    rate: u64,
    burst: u64,
    /// In billionths of a token, so that no fraction is ever lost.
    level: i128,
    /// Up to when tokens have come in.
    at: Duration,
}

impl Bucket {
    /// A full bucket. The time is since any moment, always the same one. A rate or burst of 0 counts as 1.
    #[must_use]
    pub fn new(rate: u64, burst: u64, now: Duration) -> Self {
        let (rate, burst) = (rate.max(1), burst.max(1));
        let level = i128::from(burst) * NANOS;
        Self {
            rate,
            burst,
            level,
            at: now,
        }
    }

    /// How many tokens come in per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Another rate and burst from now on. What is there or owed stays, up to the new burst.
    pub fn set(&mut self, rate: u64, burst: u64, now: Duration) {
        self.refill(now);
        (self.rate, self.burst) = (rate.max(1), burst.max(1));
        self.level = self.level.min(i128::from(self.burst) * NANOS);
    }

    /// Takes the tokens, if it may now. A time before the last one counts as the last one.
    pub fn take(&mut self, tokens: u64, now: Duration) -> bool {
        self.refill(now);
        let may = self.missing(tokens) <= 0;
        if may {
            self.level -= i128::from(tokens) * NANOS;
        }
        may
    }

    /// How long until [`take`](Self::take) gives so many tokens, if nobody takes any before.
    #[must_use]
    pub fn wait(&self, tokens: u64, now: Duration) -> Duration {
        let mut then = self.clone();
        then.refill(now);
        let rate = i128::from(self.rate);
        let nanos = (then.missing(tokens).max(0) + rate - 1) / rate;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How much is missing for so many tokens.
    fn missing(&self, tokens: u64) -> i128 {
        i128::from(tokens.min(self.burst)) * NANOS - self.level
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        let came = i128::try_from(passed)
            .unwrap_or(i128::MAX)
            .saturating_mul(self.rate.into());
        self.level = self
            .level
            .saturating_add(came)
            .min(i128::from(self.burst) * NANOS);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_window_has_more_than_the_burst_and_what_came_in(
            rate in 1_u64..2_000_000,
            burst in 1_u64..1_000_000,
            requests in prop::collection::vec((0_u64..1_500_000, 0_u64..2_000_000_000), 1..60),
        ) {
            let mut bucket = Bucket::new(rate, burst, Duration::ZERO);
            let mut now = Duration::ZERO;
            let mut taken: Vec<(Duration, u64)> = Vec::new();
            for (tokens, later) in requests {
                now += Duration::from_nanos(later);
                if bucket.take(tokens, now) {
                    taken.push((now, tokens));
                }
            }
            for from in 0..taken.len() {
                for to in from..taken.len() {
                    let sum: u128 = taken[from..=to].iter().map(|(_, tokens)| u128::from(*tokens)).sum();
                    // The last one may be larger than the bucket.
                    let most = u128::from(burst.max(taken[to].1)) * 1_000_000_000
                        + (taken[to].0 - taken[from].0).as_nanos() * u128::from(rate);
                    prop_assert!(sum * 1_000_000_000 <= most);
                }
            }
        }

        #[test]
        fn who_waits_as_long_as_it_says_gets_it_and_not_a_moment_earlier(
            rate in 1_u64..2_000_000_000,
            burst in 1_u64..1_000_000_000,
            requests in prop::collection::vec((0_u64..1_500_000_000, 0_u64..3_000_000_000), 1..40),
        ) {
            let mut bucket = Bucket::new(rate, burst, Duration::ZERO);
            let mut now = Duration::ZERO;
            for (tokens, later) in requests {
                now += Duration::from_nanos(later);
                let wait = bucket.wait(tokens, now);
                if !wait.is_zero() {
                    prop_assert!(!bucket.clone().take(tokens, now + wait - Duration::from_nanos(1)));
                }
                now += wait;
                prop_assert!(bucket.take(tokens, now));
            }
        }

        #[test]
        fn a_new_rate_gives_no_tokens(old in (1_u64..1000, 1_u64..1000), new in (1_u64..1000, 1_u64..1000), tokens in 0_u64..2000) {
            let mut bucket = Bucket::new(old.0, old.1, Duration::ZERO);
            let may = bucket.clone().take(tokens, Duration::ZERO);
            bucket.set(new.0, new.1, Duration::ZERO);
            // A smaller bucket is full earlier, so a large request may pass that had to wait: but never out of more than there was.
            prop_assert!(may || new.1 < old.1 || !bucket.take(tokens, Duration::ZERO) || tokens > old.1);
        }
    }
}
