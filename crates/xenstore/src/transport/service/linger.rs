//! Whether to look again for a moment before going to sleep.
//!
//! To fall asleep and to be woken on another CPU costs some tens of microseconds, many times what a request does. Clients that
//! wait for their answers ask again within that time: a service that lingers for so long finds the next requests while it
//! is awake, and the clients' wake-ups and its own work overlap. Where nobody asks within it, the time is lost. So it is
//! spent only where it pays: each time that it was in vain, the next so many times are left out, twice as many as
//! before; once it was not, none are.

use std::time::Duration;

/// How long: about what a sleep and a wake-up cost together.
pub(super) const LINGER: Duration = Duration::from_micros(50);

/// The most times in a row that are left out. It bounds what an idle service spends: a 256th of its wake-ups linger in vain.
const SKIP_MAX: u32 = 255;

/// What came of it so far.
#[derive(Debug, Default)]
pub(super) struct Linger {
    /// As many times as are still left out.
    skip: u32,
    /// As many as will be left out when it is in vain again.
    penalty: u32,
}

impl Linger {
    /// Whether it is worth while now. Asked once before each sleep.
    pub(super) fn pays(&mut self) -> bool {
        match self.skip.checked_sub(1) {
            Some(left) => {
                self.skip = left;
                false
            }
            None => true,
        }
    }

    /// Something came meanwhile, or nothing.
    pub(super) fn learn(&mut self, came: bool) {
        self.penalty = if came {
            0
        } else {
            (self.penalty * 2 + 1).min(SKIP_MAX)
        };
        self.skip = self.penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many sleeps lingered, where something comes each time or never.
    fn lingers(linger: &mut Linger, sleeps: u32, came: bool) -> u32 {
        let mut count = 0;
        for _ in 0..sleeps {
            if linger.pays() {
                linger.learn(came);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn it_goes_on_while_it_pays() {
        assert_eq!(lingers(&mut Linger::default(), 1000, true), 1000);
    }

    #[test]
    fn in_vain_it_becomes_rare() {
        let mut linger = Linger::default();
        assert_eq!(
            lingers(&mut linger, 255, false),
            8,
            "1, 3, 7 … between them"
        );
        assert_eq!(lingers(&mut linger, 2560, false), 10);
    }

    #[test]
    fn one_success_forgets_the_failures() {
        let mut linger = Linger::default();
        lingers(&mut linger, 1000, false);
        while !linger.pays() {}
        linger.learn(true);
        assert_eq!(lingers(&mut linger, 100, true), 100);
    }
}
