//! What a pass over a ring ended with.

use std::time::Instant;

/// What is to be done after a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// The front end wants to be notified.
    pub(crate) notify: bool,
    /// There is more to do at once.
    pub(crate) more: bool,
    /// There is more to do then.
    pub(crate) wake: Option<Instant>,
}

impl Pass {
    /// There is more to do then, or before.
    pub(crate) fn wake_at(&mut self, when: Instant) {
        self.wake = Some(self.wake.map_or(when, |known| known.min(when)));
    }

    /// Both.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.notify |= other.notify;
        self.more |= other.more;
        if let Some(when) = other.wake {
            self.wake_at(when);
        }
        self
    }
}
