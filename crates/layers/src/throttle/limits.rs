//! How much a disk may do per second, and who is next.

use std::time::Duration;

use super::Bucket;

/// How much a disk may do per second. 0 is: as much as it can.
///
/// A burst is what may be done at once after a time of rest; 0 is a tenth of a second's worth. Bytes that are written are the
/// writes'; a discard is a write of no bytes; a flush is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes read per second.
    pub read_bps: u64,
    /// Bytes written per second.
    pub write_bps: u64,
    /// Reads per second.
    pub read_iops: u64,
    /// Writes and discards per second.
    pub write_iops: u64,
    /// Bytes read at once.
    pub read_bps_burst: u64,
    /// Bytes written at once.
    pub write_bps_burst: u64,
    /// Reads at once.
    pub read_iops_burst: u64,
    /// Writes and discards at once.
    pub write_iops_burst: u64,
}

/// What a request is to a throttle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

/// The buckets of reads, or those of writes, and the queues that wait for them.
#[derive(Debug, Default)]
pub(super) struct Line {
    bytes: Option<Bucket>,
    requests: Option<Bucket>,
    waiting: Vec<Waiting>,
    /// Where the latest request to pass began, in the time that all of the line's requests take one after the other.
    reached: u128,
}

/// A queue whose first request waits. By its begin: one that has had little comes before one that has had much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    begin: u128,
    queue: u64,
    bytes: u64,
}

fn bucket(bucket: &mut Option<Bucket>, rate: u64, burst: u64, now: Duration) {
    let burst = if burst == 0 {
        (rate / 10).max(1)
    } else {
        burst
    };
    match bucket {
        _ if rate == 0 => *bucket = None,
        Some(bucket) => bucket.set(rate, burst, now),
        None => *bucket = Some(Bucket::new(rate, burst, now)),
    }
}

impl Line {
    /// Other limits from now on, bytes and requests, each with its burst.
    pub(super) fn set(&mut self, bytes: (u64, u64), requests: (u64, u64), now: Duration) {
        bucket(&mut self.bytes, bytes.0, bytes.1, now);
        bucket(&mut self.requests, requests.0, requests.1, now);
    }

    /// A queue's request wants to pass; whether it may at once. If not, the queue waits. `finish` is where the queue's last request ended.
    pub(super) fn ask(&mut self, queue: u64, bytes: u64, finish: &mut u128, now: Duration) -> bool {
        let begin = self.reached.max(*finish);
        *finish = begin.saturating_add(self.cost(bytes));
        if self.waiting.is_empty() && self.take(bytes, now) {
            self.reached = begin;
            return true;
        }
        let at = self.waiting.partition_point(|other| other.begin <= begin);
        self.waiting.insert(
            at,
            Waiting {
                begin,
                queue,
                bytes,
            },
        );
        false
    }

    /// The next queue whose request may pass now. It does not wait any more.
    pub(super) fn next(&mut self, now: Duration) -> Option<u64> {
        let first = *self.waiting.first()?;
        if !self.take(first.bytes, now) {
            return None;
        }
        self.waiting.remove(0);
        self.reached = self.reached.max(first.begin);
        Some(first.queue)
    }

    /// A queue waits no more.
    pub(super) fn leave(&mut self, queue: u64) {
        self.waiting.retain(|waiting| waiting.queue != queue);
    }

    /// How long each waiting queue waits, if none comes or goes.
    pub(super) fn waits(&self, now: Duration) -> Vec<(u64, Duration)> {
        let (mut line, mut at) = (
            Self {
                bytes: self.bytes.clone(),
                requests: self.requests.clone(),
                ..Self::default()
            },
            now,
        );
        let mut waits = Vec::with_capacity(self.waiting.len());
        for waiting in &self.waiting {
            at = at.saturating_add(line.wait(waiting.bytes, at));
            line.take(waiting.bytes, at);
            waits.push((waiting.queue, at.saturating_sub(now)));
        }
        waits
    }

    fn wait(&self, bytes: u64, now: Duration) -> Duration {
        let wait = |bucket: &Option<Bucket>, tokens| {
            bucket
                .as_ref()
                .map_or(Duration::ZERO, |bucket| bucket.wait(tokens, now))
        };
        wait(&self.bytes, bytes).max(wait(&self.requests, 1))
    }

    /// Takes from both buckets, or from neither.
    fn take(&mut self, bytes: u64, now: Duration) -> bool {
        let may = self.wait(bytes, now).is_zero();
        if may {
            if let Some(bucket) = &mut self.bytes {
                bucket.take(bytes, now);
            }
            if let Some(bucket) = &mut self.requests {
                bucket.take(1, now);
            }
        }
        may
    }

    /// How many nanoseconds of the line's time a request takes.
    fn cost(&self, bytes: u64) -> u128 {
        let time = |bucket: &Option<Bucket>, tokens: u64| {
            bucket.as_ref().map_or(0, |bucket| {
                u128::from(tokens) * 1_000_000_000 / u128::from(bucket.rate())
            })
        };
        time(&self.bytes, bytes).max(time(&self.requests, 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(bps: u64, iops: u64) -> Line {
        let mut line = Line::default();
        line.set((bps, 0), (iops, 0), Duration::ZERO);
        line
    }

    /// Every queue always has another request; what each has had after so many seconds.
    fn run(mut line: Line, sizes: &[u64], seconds: u64) -> Vec<u64> {
        let mut had = vec![0; sizes.len()];
        let mut finish = vec![0; sizes.len()];
        let mut now = Duration::ZERO;
        let mut idle: Vec<usize> = (0..sizes.len()).collect();
        while now < Duration::from_secs(seconds) {
            while let Some(queue) = idle.pop() {
                if line.ask(queue as u64, sizes[queue], &mut finish[queue], now) {
                    had[queue] += sizes[queue];
                    idle.push(queue);
                }
            }
            let waits = line.waits(now);
            now += waits.first().unwrap().1;
            while let Some(queue) = line.next(now) {
                let queue = usize::try_from(queue).unwrap();
                had[queue] += sizes[queue];
                idle.push(queue);
            }
        }
        had
    }

    proptest! {
        #[test]
        fn queues_get_the_same_bytes_whatever_their_requests(sizes in prop::collection::vec(1_u64..64, 2..5)) {
            let sizes: Vec<u64> = sizes.iter().map(|size| size * 4096).collect();
            let had = run(line(1 << 20, 0), &sizes, 60);
            let largest = *sizes.iter().max().unwrap();
            let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
            // A request or two, and what the first one to come took of the full bucket.
            prop_assert!(most - least <= 3 * largest + (1 << 20) / 10, "{had:?}");
            let sum: u64 = had.iter().sum();
            prop_assert!(sum.abs_diff(60 << 20) <= (1 << 20) + 5 * largest, "{sum}");
        }
    }

    #[test]
    fn a_limit_of_requests_counts_requests() {
        let had = run(line(0, 100), &[1, 1], 10);
        assert!(had.iter().sum::<u64>().abs_diff(1000) <= 20, "{had:?}");
    }

    #[test]
    fn who_waits_longest_is_told_so() {
        let mut line = line(1000, 0);
        let mut finish = [0; 3];
        assert!(line.ask(0, 100, &mut finish[0], Duration::ZERO));
        assert!(!line.ask(1, 100, &mut finish[1], Duration::ZERO));
        assert!(!line.ask(2, 50, &mut finish[2], Duration::ZERO));
        let millis = Duration::from_millis;
        assert_eq!(
            line.waits(Duration::ZERO),
            [(1, millis(100)), (2, millis(150))]
        );
        line.leave(1);
        assert_eq!(line.waits(Duration::ZERO), [(2, millis(50))]);
        assert_eq!(line.next(millis(49)), None);
        assert_eq!(line.next(millis(50)), Some(2));
    }

    #[test]
    fn without_limits_everything_passes() {
        let mut line = Line::default();
        assert!(line.ask(0, u64::MAX, &mut 0, Duration::ZERO));
    }
}
