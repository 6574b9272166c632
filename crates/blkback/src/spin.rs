//! When to look once more before sleeping.

use std::time::Duration;

/// How rarely one looks at most: once in so many times.
const RAREST: u32 = 256;

/// Decides whether a thread that has nothing to do looks for a while or sleeps at once. As long as something comes within that while,
/// it looks each time; each time in vain doubles how often it does not.
#[derive(Debug)]
pub(crate) struct Spin {
    most: Duration,
    /// One look in so many times.
    every: u32,
    /// Times to sleep at once before the next look.
    left: u32,
}

impl Spin {
    /// Looks for `most` at a time; never where that is nothing, or there is no other CPU for what one looks for to come from.
    pub(crate) fn new(most: Duration) -> Self {
        let alone = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1);
        Self {
            most: if alone { Duration::ZERO } else { most },
            every: 1,
            left: 0,
        }
    }

    /// How long to look now; `None`: sleep.
    pub(crate) fn look(&mut self) -> Option<Duration> {
        if self.most.is_zero() {
            return None;
        }
        if self.left > 0 {
            self.left -= 1;
            return None;
        }
        Some(self.most)
    }

    /// How the last look ended.
    pub(crate) fn looked(&mut self, found: bool) {
        self.every = if found {
            1
        } else {
            (self.every * 2).min(RAREST)
        };
        self.left = self.every - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin() -> Spin {
        Spin {
            most: Duration::from_micros(1),
            every: 1,
            left: 0,
        }
    }

    #[test]
    fn what_looks_in_vain_looks_ever_more_rarely() {
        let mut spin = spin();
        let mut looks = 0;
        for _ in 0..1000 {
            if spin.look().is_some() {
                looks += 1;
                spin.looked(false);
            }
        }
        assert_eq!(looks, 10, "after 1, 2, 4 … 256, and 256 again");
    }

    #[test]
    fn what_finds_something_looks_each_time() {
        let mut spin = spin();
        for _ in 0..20 {
            spin.look();
            spin.looked(false);
        }
        spin.left = 0;
        spin.looked(true);
        for _ in 0..10 {
            assert!(spin.look().is_some());
            spin.looked(true);
        }
    }

    #[test]
    fn no_time_means_never() {
        let mut spin = Spin::new(Duration::ZERO);
        assert_eq!(spin.look(), None);
    }
}
