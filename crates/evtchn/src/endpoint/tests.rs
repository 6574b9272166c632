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
    fn new() -> Arc<Self> {
        Arc::new(Self {
            flag: LoomFlag(AtomicBool::new(false)),
            bell: Counter(AtomicU32::new(0)),
            work: [AtomicU32::new(0), AtomicU32::new(0)],
        })
    }

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
        let end = End::new();
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
    run(|flag, bell| take(flag, bell, false));
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

/// One who signals twice by the flag, while another has the end made direct and then rings without it; one taker that tries twice.
fn switch(direct: fn(&AtomicBool) -> bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let end = End::new();
        let is_direct = Arc::new(AtomicBool::new(false));
        let seen = StdArc::new(StdMutex::new([0, 0]));
        let signaller = {
            let end = end.clone();
            thread::spawn(move || {
                for work in 1..=2 {
                    end.work[0].store(work, Ordering::Relaxed);
                    signal(&end.flag, &end.bell);
                }
            })
        };
        let other = {
            let (end, is_direct) = (end.clone(), is_direct.clone());
            thread::spawn(move || {
                is_direct.store(true, Ordering::Release);
                end.work[1].store(1, Ordering::Relaxed);
                end.bell.ring();
            })
        };
        for _ in 0..2 {
            if take(&end.flag, &end.bell, direct(&is_direct)) {
                *seen.lock().unwrap() = end.done();
            }
        }
        signaller.join().unwrap();
        other.join().unwrap();
        if *seen.lock().unwrap() != [2, 1] {
            assert!(end.bell.readable(), "a signal is lost: nobody would wake");
            let taken = take(&end.flag, &end.bell, direct(&is_direct));
            assert!(taken, "it wakes for ever");
        }
        assert!(
            end.bell.readable() || !end.flag.get(),
            "the flag is set and nothing rings: no signal would wake"
        );
        // And each signal after that wakes.
        take(&end.flag, &end.bell, direct(&is_direct));
        for by_flag in [true, false, true] {
            if by_flag {
                signal(&end.flag, &end.bell);
            } else {
                end.bell.ring();
            }
            assert!(end.bell.readable());
            assert!(take(&end.flag, &end.bell, direct(&is_direct)));
        }
    });
}

#[test]
fn no_signal_is_lost_where_others_ring_too() {
    switch(|is_direct| is_direct.load(Ordering::Acquire));
}

/// A taker that goes by the flag alone, to show that the model would notice.
#[test]
#[should_panic]
fn a_flag_that_not_all_know_of_is_not_to_be_believed() {
    switch(|_| false);
}
