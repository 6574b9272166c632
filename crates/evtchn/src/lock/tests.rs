use std::sync::atomic::AtomicU64;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64 as LoomU64;
use loom::thread;

use super::*;

impl State for LoomU64 {
    fn enter(&self) -> u64 {
        self.fetch_add(1, Ordering::Acquire)
    }
    fn leave(&self, add: u64) {
        self.fetch_add(add, Ordering::Release);
    }
    fn claim(&self) -> u64 {
        self.fetch_or(WRITER, Ordering::Acquire)
    }
    fn yield_up(&self) {
        self.fetch_and(!WRITER, Ordering::Release);
    }
    // Never stale, so that waiting ends in the model too.
    fn get(&self) -> u64 {
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
        let lock = Arc::new((LoomU64::new(0), loom::cell::UnsafeCell::new(0)));
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
                    lock.0.leave(COUNTED.wrapping_add(UNCOUNTED));
                }
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        let readers = writes.into_iter().filter(|writes| !writes).count();
        assert_eq!(lock.0.get(), readers as u64 * COUNTED);
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
    let (reads, settled) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut counted = 0;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let reading = lock.read();
                    assert_eq!(reading.0, reading.1);
                    if reading.is_full() {
                        settled.fetch_add(lock.take_count(), Ordering::Relaxed);
                    }
                    reading.end_counted();
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for n in 1..2000 {
            let mut ran = false;
            let old = lock.replace((n, n), |old| {
                ran = *old == (n - 1, n - 1);
                counted += lock.take_count();
            });
            assert!(ran && old == (n - 1, n - 1));
            lock.change_beside(|beside| beside + 1);
        }
        while reads.load(Ordering::Relaxed) < 1000 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(lock.beside(), 7 + 1999);
    counted += lock.take_count() + settled.into_inner();
    assert_eq!(counted, reads.into_inner());
}

#[test]
fn a_count_tells_when_it_is_half_full_and_overflows_into_nothing() {
    let lock = SlotLock::new((), u32::MAX);
    for n in 0..1_u64 << 15 {
        assert_eq!(lock.count(), n);
        let reading = lock.read();
        assert!(!reading.is_full());
        reading.end_counted();
    }
    assert!(lock.read().is_full());
    assert_eq!((lock.take_count(), lock.count()), (1 << 15, 0));
    for _ in 0..(1 << 16) + 3 {
        lock.read().end_counted();
    }
    assert_eq!((lock.count(), lock.beside()), (3, u32::MAX));
    lock.replace((), |()| ());
}
