//! How many bytes an interface may pass: the credit of vif's `rate=`.

mod rate;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use rate::{Rate, RateError};

/// The least that a full bucket holds, in bytes: the largest packet is not to wait for credit that can never be there.
const BURST_MIN: u64 = 64 * 1024;
/// Who waits is not to be woken for each packet: the wait ends when this much time's credit is there, or half a bucket.
const NAP: Duration = Duration::from_millis(1);
/// A wait longer than a clock can say.
const FAR: Duration = Duration::from_secs(3600);

/// The credit of one direction of an interface, shared by its queues.
///
/// A bucket is filled at the rate, up to one interval's bytes, though at least 64 KiB. A packet passes as long as there is any credit, and
/// may take more than there is: what it took too much is missing afterwards. So in any time `t` no more passes than one bucket, `rate * t`
/// and one packet; and who always has something to send is held to exactly the rate, whatever the sizes of packets. The arithmetic
/// is exact.
///
/// Without a limit, [`take`](Self::take) costs one atomic load.
#[derive(Debug, Default)]
pub struct Credit {
    is_limited: AtomicBool,
    bucket: Mutex<Option<Bucket>>,
}

impl Credit {
    /// With this limit, and a full bucket; or without one.
    #[must_use]
    pub fn new(rate: Option<Rate>) -> Self {
        Self {
            is_limited: AtomicBool::new(rate.is_some()),
            bucket: Mutex::new(rate.map(Bucket::full)),
        }
    }

    /// The limit.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        self.bucket().as_ref().map(|bucket| bucket.rate)
    }

    /// Changes the limit, as of now: see [`set_at`](Self::set_at).
    pub fn set(&self, rate: Option<Rate>) {
        self.set_at(Instant::now(), rate);
    }

    /// Changes the limit. What is left of credit stays, up to what the new bucket holds, and so does what is missing; where there
    /// was no limit before, the bucket is full.
    ///
    /// Who waits for credit should try again at once: the moments told before are those of the old rate.
    pub fn set_at(&self, now: Instant, rate: Option<Rate>) {
        let mut own = self.bucket();
        let next = rate.map(|rate| match own.as_ref() {
            Some(old) => old.changed(now, rate),
            None => Bucket::full(rate),
        });
        // Relaxed: who misses it lets a packet more or less through.
        self.is_limited.store(next.is_some(), Ordering::Relaxed);
        *own = next;
    }

    /// Takes a packet's bytes, or says when to try again. `now` may lie a little before another thread's.
    ///
    /// # Errors
    ///
    /// Where there is no credit: the moment when there is enough again to go on for a while, always after `now`. Who tries earlier does no
    /// harm, and may succeed.
    pub fn take(&self, now: Instant, bytes: usize) -> Result<(), Instant> {
        self.with(|bucket| {
            bucket.ready(now)?;
            bucket.spend(bytes);
            Ok(())
        })
        .unwrap_or(Ok(()))
    }

    /// Whether [`take`](Self::take) would succeed: for who does not know yet what there is to pass.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub fn ready(&self, now: Instant) -> Result<(), Instant> {
        self.with(|bucket| bucket.ready(now)).unwrap_or(Ok(()))
    }

    /// Takes a packet's bytes whether there is credit or not: for who has asked [`ready`](Self::ready). Where several do so at once, each has
    /// its packet; what is missing afterwards is missing to all.
    pub fn spend(&self, now: Instant, bytes: usize) {
        self.with(|bucket| {
            bucket.fill(now);
            bucket.spend(bytes);
        });
    }

    /// `None` without a limit.
    fn with<T>(&self, with: impl FnOnce(&mut Bucket) -> T) -> Option<T> {
        if !self.is_limited.load(Ordering::Relaxed) {
            return None;
        }
        self.bucket().as_mut().map(with)
    }

    fn bucket(&self) -> MutexGuard<'_, Option<Bucket>> {
        // Nothing that is done with the lock held can leave it half done.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bucket of credit. Amounts are in bytes times the interval's nanoseconds: each nanosecond adds the rate's bytes, and nothing is
/// ever rounded.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    /// Negative where packets took more than there was.
    credit: i128,
    /// Until when it has been filled; `None` where it is full yet.
    at: Option<Instant>,
}

impl Bucket {
    fn full(rate: Rate) -> Self {
        Self {
            rate,
            credit: burst(rate),
            at: None,
        }
    }

    /// The same with another rate.
    fn changed(&self, now: Instant, rate: Rate) -> Self {
        let mut old = *self;
        old.fill(now);
        // Rounded down, to less credit or more missing, by less than a byte.
        let bytes = old.credit.div_euclid(nanos(old.rate.interval()));
        Self {
            rate,
            // What the new bucket does not hold goes when it is filled next.
            credit: bytes.saturating_mul(nanos(rate.interval())),
            at: old.at,
        }
    }

    /// Adds what has come since the last time; returns until when that is.
    fn fill(&mut self, now: Instant) -> Instant {
        // Another thread's clock may have been read later: time does not go back.
        let from = self.at.unwrap_or(now);
        let elapsed = nanos(now.saturating_duration_since(from));
        let filled = elapsed.saturating_mul(self.rate.bytes().get().into());
        self.credit = self.credit.saturating_add(filled).min(burst(self.rate));
        let until = from.max(now);
        self.at = Some(until);
        until
    }

    fn ready(&mut self, now: Instant) -> Result<(), Instant> {
        let until = self.fill(now);
        if self.credit > 0 {
            return Ok(());
        }
        Err(self.again(until))
    }

    fn spend(&mut self, bytes: usize) {
        let bytes = i128::try_from(bytes).unwrap_or(i128::MAX);
        let spent = bytes.saturating_mul(nanos(self.rate.interval()));
        self.credit = self.credit.saturating_sub(spent);
    }

    /// When, after `until`, there is enough credit again. Not so much that a late riser finds the bucket full: that would be credit lost.
    fn again(&self, until: Instant) -> Instant {
        let bytes = i128::from(self.rate.bytes().get());
        // Of either there are many nanoseconds: rounding does not matter.
        let enough = bytes.saturating_mul(nanos(NAP)).min(burst(self.rate) / 2);
        let wait = enough.saturating_sub(self.credit) / bytes;
        let wait = u64::try_from(wait).map_or(FAR, Duration::from_nanos);
        until.checked_add(wait).unwrap_or(until)
    }
}

/// What a full bucket holds.
fn burst(rate: Rate) -> i128 {
    let bytes = i128::from(rate.bytes().get().max(BURST_MIN));
    bytes.saturating_mul(nanos(rate.interval()))
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests;
