//! What a disk has done, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one disk. They belong to the disk and not to a connection: whoever holds them may read them at any
        /// time, also while the ring is being torn down and after the disk is gone (XSA-528).
        #[derive(Debug, Default)]
        pub struct Stats { $(pub(crate) $name: AtomicU64,)* }

        /// [`Stats`] at one moment. Counters are read one after the other, so sums may be off by what happens meanwhile.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct StatsSnapshot { $($(#[$doc])* pub $name: u64,)* }

        impl Stats {
            /// The counters now.
            #[must_use]
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads that succeeded.
    reads,
    /// Writes that succeeded.
    writes,
    /// Flushes that succeeded.
    flushes,
    /// Discards that succeeded.
    discards,
    /// Sectors of 512 bytes read.
    sectors_read,
    /// Sectors of 512 bytes written.
    sectors_written,
    /// Requests answered with an error because of what they said, grants that do not map included.
    refused,
    /// Requests answered with an error because the image failed.
    failed,
    /// Notifications sent to the front end.
    notifications,
    /// Looks at the ring that found requests: `requests / passes` is the batch size.
    passes,
    /// Connections made.
    connects,
    /// Times that the disk stopped for an error of the host.
    stops,
    /// Connections given up because the front end broke the ring's rules.
    broken,
}

/// Counts. Only statistics: nothing else is ordered by it, hence relaxed.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
