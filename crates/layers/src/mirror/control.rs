//! What the copying thread is told, and what it tells.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cantle_image::Format;

use super::copy::CHUNK;
use super::{MirrorError, Progress};
use crate::DirtyTracker;
use crate::throttle::Bucket;

/// How long to sleep while there is nothing to do but wait for the order to switch.
const LOOK: Duration = Duration::from_millis(50);

/// What the thread is told, and what it tells.
pub(super) struct Control {
    orders: Mutex<Orders>,
    changed: Condvar,
    pub(super) copied: AtomicU64,
    pub(super) round: AtomicU32,
    pub(super) speed: AtomicU64,
    pub(super) ready: AtomicBool,
    began: Instant,
}

struct Orders {
    cancel: bool,
    switch: bool,
    limit: Option<Bucket>,
}

impl Control {
    pub(super) fn new(rate: u64) -> Self {
        let control = Self {
            orders: Mutex::new(Orders {
                cancel: false,
                switch: false,
                limit: None,
            }),
            changed: Condvar::new(),
            copied: AtomicU64::new(0),
            round: AtomicU32::new(0),
            speed: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            began: Instant::now(),
        };
        control.set_rate(rate);
        control
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_rate(&self, rate: u64) {
        let (now, burst) = (self.began.elapsed(), (rate / 10).max(CHUNK as u64));
        let mut orders = self.orders();
        match &mut orders.limit {
            _ if rate == 0 => orders.limit = None,
            Some(limit) => limit.set(rate, burst, now),
            None => orders.limit = Some(Bucket::new(rate, burst, now)),
        }
        self.changed.notify_all();
    }

    pub(super) fn switch(&self) {
        self.orders().switch = true;
        self.changed.notify_all();
    }

    pub(super) fn cancel(&self) {
        self.orders().cancel = true;
        self.changed.notify_all();
    }

    /// Waits until so many bytes may be copied.
    pub(super) fn pay(&self, bytes: u64) -> Result<(), MirrorError> {
        let mut orders = self.orders();
        loop {
            if orders.cancel {
                return Err(MirrorError::Cancelled);
            }
            let now = self.began.elapsed();
            let Some(limit) = &mut orders.limit else {
                return Ok(());
            };
            if limit.take(bytes, now) {
                return Ok(());
            }
            let wait = limit.wait(bytes, now);
            orders = self.sleep(orders, wait);
        }
    }

    fn sleep<'a>(&self, orders: MutexGuard<'a, Orders>, wait: Duration) -> MutexGuard<'a, Orders> {
        self.changed
            .wait_timeout(orders, wait)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Whether the order to switch has come; if not, sleeps for a moment.
    pub(super) fn ordered(&self) -> Result<bool, MirrorError> {
        let mut orders = self.orders();
        if !orders.switch && !orders.cancel {
            orders = self.sleep(orders, LOOK);
        }
        if orders.cancel {
            Err(MirrorError::Cancelled)
        } else {
            Ok(orders.switch)
        }
    }

    pub(super) fn progress(&self, tracker: &DirtyTracker) -> Progress {
        let total = tracker.geometry().bytes();
        Progress {
            // Numbers to look at: no other memory goes by them.
            copied: self.copied.load(Ordering::Relaxed),
            dirty: tracker.dirty_bytes().min(total),
            total,
            round: self.round.load(Ordering::Relaxed),
            rate: self.speed.load(Ordering::Relaxed),
            ready: self.ready.load(Ordering::Relaxed),
        }
    }
}
