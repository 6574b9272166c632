//! Every interleaving of signallers and takers, as far as the memory model goes.

use std::sync::Arc as StdArc;
use std::sync::Mutex as StdMutex;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

use super::{Bell, Flag, signal, take};

struct LoomFlag(AtomicBool);

impl Flag for LoomFlag {
    fn replace(&self, value: bool) -> bool {
        self.0.swap(value, Ordering::AcqRel)
    }
    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// An eventfd: a counter behind a lock of the kernel's.
struct Counter(AtomicU32);

impl Bell for Counter {
    fn ring(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
    fn still(&self) -> bool {
        self.0.swap(0, Ordering::AcqRel) != 0
    }
}

impl Counter {
    fn readable(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

struct End {
    flag: LoomFlag,
    bell: Counter,
    /// What each signaller has written before it signals.
    work: [AtomicU32; 2],
}

impl End {
    fn done(&self) -> [u32; 2] {
        [0, 1].map(|n| self.work[n].load(Ordering::Relaxed))
    }
}

/// Two signallers against one taker that tries twice; whatever it has missed must wait for it afterwards.
fn run(take: fn(&LoomFlag, &Counter) -> bool) {
    let mut model = loom::model::Builder::new();
    // All executions with up to three preemptions: seconds instead of minutes, and the flaw below shows with one.
    model.preemption_bound = Some(3);
    model.check(move || {
        let end = Arc::new(End {
            flag: LoomFlag(AtomicBool::new(false)),
            bell: Counter(AtomicU32::new(0)),
            work: [AtomicU32::new(0), AtomicU32::new(0)],
        });
        let seen = StdArc::new(StdMutex::new([0, 0]));
        let signallers = [0, 1].map(|n| {
            let end = end.clone();
            thread::spawn(move || {
                end.work[n].store(1, Ordering::Relaxed);
                signal(&end.flag, &end.bell);
            })
        });
        let taker = {
            let (end, seen) = (end.clone(), seen.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    if take(&end.flag, &end.bell) {
                        *seen.lock().unwrap() = end.done();
                    }
                }
            })
        };
        for thread in signallers {
            thread.join().unwrap();
        }
        taker.join().unwrap();
        assert_eq!(end.bell.readable(), end.flag.get(), "flag and bell agree");
        if *seen.lock().unwrap() != [1, 1] {
            assert!(end.bell.readable(), "a signal is lost: nobody would wake");
        }
        if take(&end.flag, &end.bell) {
            assert_eq!(end.done(), [1, 1]);
        }
        // And the end is as new: the next signal rings.
        signal(&end.flag, &end.bell);
        assert!(end.bell.readable() && take(&end.flag, &end.bell));
    });
}

#[test]
fn no_signal_is_lost() {
    run(take);
}

/// The wrong order, to show that the model would notice: the flag falls first.
#[test]
#[should_panic]
fn flag_before_bell_loses_signals() {
    run(|flag, bell| {
        let signalled = flag.replace(false);
        bell.still();
        signalled
    });
}
