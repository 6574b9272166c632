//! How long a guest has lacked pages for what is to be given to it.

use std::time::{Duration, Instant};

/// Since when pages are missing, and whether the port was told that nobody is there.
///
/// What is missing is remembered beyond the frames that waited: when those are dropped, the guest still has too few pages.
#[derive(Debug, Default)]
pub(super) struct Starvation {
    since: Option<Since>,
    stalled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    at: Instant,
    /// Pages that the first frame needs.
    needed: usize,
}

impl Starvation {
    /// Pages are missing: a frame needs so many. Since when that has been so.
    pub(super) fn begin(&mut self, now: Instant, needed: usize) -> Instant {
        self.since.get_or_insert(Since { at: now, needed }).at
    }

    /// A frame could be given.
    pub(super) fn end(&mut self) {
        self.since = None;
    }

    /// There are so many pages now: they may be what was missing.
    pub(super) fn posted(&mut self, pages: usize) {
        self.since = self.since.filter(|since| pages < since.needed);
    }

    /// How many pages were missing, where some are.
    pub(super) fn needed(&self) -> Option<usize> {
        self.since.map(|since| since.needed)
    }

    /// Whether it has lasted so long.
    pub(super) fn has_lasted(&self, now: Instant, patience: Duration) -> bool {
        self.since
            .is_some_and(|since| now.saturating_duration_since(since.at) >= patience)
    }

    /// The port is told that nobody is there; false where it was before.
    pub(super) fn stall(&mut self) -> bool {
        !std::mem::replace(&mut self.stalled, true)
    }

    /// Whether the port is to be told that somebody is there again.
    pub(super) fn is_over(&self) -> bool {
        self.stalled && self.since.is_none()
    }

    /// As [`is_over`](Self::is_over), and the port is told.
    pub(super) fn recover(&mut self) -> bool {
        let is_over = self.is_over();
        self.stalled &= !is_over;
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_pages_are_none() {
        let now = Instant::now();
        let mut starvation = Starvation::default();
        assert_eq!(starvation.begin(now, 3), now);
        let later = now + Duration::from_secs(1);
        assert_eq!(starvation.begin(later, 1), now, "it goes on");
        assert!(starvation.stall() && !starvation.stall());
        starvation.posted(2);
        assert!(starvation.has_lasted(later, Duration::from_secs(1)));
        assert!(!starvation.has_lasted(later, Duration::from_secs(2)));
        assert!(!starvation.recover());
        starvation.posted(3);
        assert!(!starvation.has_lasted(later, Duration::ZERO));
        assert!(starvation.recover() && !starvation.recover());
    }
}
