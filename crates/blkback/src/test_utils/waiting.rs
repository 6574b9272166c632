//! Waiting for what other threads do.

use std::time::{Duration, Instant};

/// Waits until something is so.
///
/// # Panics
///
/// Where it is not after 20 seconds.
#[track_caller]
pub fn wait_until(mut what: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < end, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}
