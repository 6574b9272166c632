//! vCPUs that wait in a hypercall (`SCHEDOP_poll`, `SCHEDOP_block`) rather than in the guest.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Where they sleep. Wakers look first whether anybody does, which costs one load.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    count: AtomicUsize,
    turn: Mutex<()>,
    woken: Condvar,
}

impl Sleepers {
    /// Sleeps until `ready` says so, looking again whenever something happened, or until the time is over.
    pub(crate) fn sleep(&self, until: Instant, ready: impl Fn() -> bool) {
        // Before the first look: who makes it ready afterwards sees the count (both sides are sequentially consistent).
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while !ready() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            turn = self
                .woken
                .wait_timeout(turn, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(turn);
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    /// Has all sleepers look again.
    pub(crate) fn wake(&self) {
        if self.count.load(Ordering::SeqCst) > 0 {
            // Held and let go: a sleeper is either before its look or already waiting.
            drop(self.turn.lock());
            self.woken.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    #[test]
    fn a_sleeper_wakes_when_it_is_told_and_not_at_its_deadline() {
        let sleepers = Arc::new(Sleepers::default());
        let ready = Arc::new(AtomicBool::new(false));
        let far = Instant::now() + Duration::from_secs(600);
        let thread = std::thread::spawn({
            let (sleepers, ready) = (sleepers.clone(), ready.clone());
            move || sleepers.sleep(far, || ready.load(Ordering::SeqCst))
        });
        ready.store(true, Ordering::SeqCst);
        while !thread.is_finished() {
            sleepers.wake();
            std::thread::yield_now();
        }
        assert!(Instant::now() < far);
    }

    #[test]
    fn a_sleep_ends_at_its_deadline() {
        let began = Instant::now();
        Sleepers::default().sleep(began + Duration::from_millis(5), || false);
        assert!(began.elapsed() >= Duration::from_millis(5));
    }
}
