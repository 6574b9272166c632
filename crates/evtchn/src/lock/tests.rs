use std::sync::atomic::AtomicU64;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU32 as LoomU32;
use loom::thread;

use super::*;

impl State for LoomU32 {
    fn enter(&self) -> u32 {
        self.fetch_add(1, Ordering::Acquire)
    }
    fn leave(&self) {
        self.fetch_sub(1, Ordering::Release);
    }
    fn claim(&self) -> u32 {
        self.fetch_or(WRITER, Ordering::Acquire)
    }
    fn yield_up(&self) {
        self.fetch_and(!WRITER, Ordering::Release);
    }
    // Never stale, so that waiting ends in the model too.
    fn get(&self) -> u32 {
        self.fetch_or(0, Ordering::Acquire)
    }
    fn wait(_turn: u32) {
        thread::yield_now();
    }
}

/// loom's cell panics where a reader and a writer meet, or two writers.
fn check(writes: [bool; 2]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let lock = Arc::new((LoomU32::new(0), loom::cell::UnsafeCell::new(0)));
        let threads = writes.map(|writes| {
            let lock = lock.clone();
            thread::spawn(move || {
                if writes {
                    lock_write(&lock.0);
                    #[expect(unsafe_code, reason = "loom checks that it is sound")]
                    // SAFETY: the lock is held.
                    lock.1.with_mut(|value| unsafe { *value += 1 });
                    lock.0.yield_up();
                } else {
                    lock_read(&lock.0);
                    // SAFETY: the lock is held.
                    #[expect(unsafe_code, reason = "loom checks that it is sound")]
                    lock.1.with(|value| unsafe { assert!(*value <= 2) });
                    lock.0.leave();
                }
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(lock.0.get(), 0);
    });
}

#[test]
fn readers_and_writers_never_meet() {
    check([true, false]);
    check([true, true]);
    check([false, false]);
}

#[test]
fn a_writer_gets_through_a_storm_of_readers() {
    let lock = SlotLock::new((0_u64, 0_u64), 7);
    let reads = AtomicU64::new(0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let value = *lock.read();
                    assert_eq!(value.0, value.1);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 1..2000 {
            let mut ran = false;
            let old = lock.replace((n, n), || ran = true);
            assert!(ran && old == (n - 1, n - 1));
        }
        while reads.load(Ordering::Relaxed) < 1000 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(lock.beside.load(Ordering::Relaxed), 7);
}
