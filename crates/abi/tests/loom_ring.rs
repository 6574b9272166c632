//! Every interleaving and every reordering that the memory model allows, for the two rules of `ring::protocol`.
//!
//! A producer publishes slots one by one; a consumer takes what it sees, asks to be told of more and goes to sleep. Loom runs
//! all executions. In none may the consumer sleep on a slot that nobody announces, nor read a slot before it was filled.
//! The second half breaks the rules on purpose, to show that the model would notice.

use cantle_abi::ring::protocol::{IndexCell, arm, publish, seen};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::thread;

/// Loom's atomic as an index.
struct Cell(AtomicU32);

impl IndexCell for Cell {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }
    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// An index without the full fence: as if the fences had been forgotten.
struct Unfenced(Cell);

impl IndexCell for Unfenced {
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }
    fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }
    fn full_fence() {}
}

/// An index whose publication orders nothing.
struct Unordered(Cell);

impl IndexCell for Unordered {
    fn load(&self, _: Ordering) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
    fn store(&self, value: u32, _: Ordering) {
        self.0.store(value, Ordering::Relaxed);
    }
    fn full_fence() {}
}

fn cell(value: u32) -> Cell {
    Cell(AtomicU32::new(value))
}

/// The slots published in each run. Indices start so that they wrap in between.
const SLOTS: u32 = 2;
const START: u32 = u32::MAX;

struct Shared<C> {
    prod: C,
    event: C,
    /// What the slots hold, 0 while not filled.
    slots: [AtomicU32; 2],
}

fn no_wake_up_is_lost<C: IndexCell + Send + Sync + 'static>(index: fn(u32) -> C) {
    let shared = Arc::new(Shared {
        prod: index(START),
        event: index(START.wrapping_add(1)),
        slots: [AtomicU32::new(0), AtomicU32::new(0)],
    });

    let producer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let mut told = [false; SLOTS as usize];
            for (n, told) in (0..SLOTS).zip(&mut told) {
                shared.slots[n as usize].store(n + 1, Ordering::Relaxed);
                let old = START.wrapping_add(n);
                *told = publish(&shared.prod, &shared.event, old, old.wrapping_add(1));
            }
            told
        })
    };

    // The consumer: take all that is there, ask, look again, sleep when there is nothing.
    let mut cons = START;
    let mut prod = seen(&shared.prod);
    loop {
        while cons != prod {
            let n = cons.wrapping_sub(START);
            let slot = shared.slots[n as usize].load(Ordering::Relaxed);
            assert_eq!(slot, n + 1, "a slot was seen before it was filled");
            cons = cons.wrapping_add(1);
        }
        prod = arm(&shared.prod, &shared.event, cons);
        if cons == prod {
            break;
        }
    }

    let told = producer.join().expect("the producer does not panic");
    let asleep_at = cons.wrapping_sub(START);
    if asleep_at < SLOTS {
        assert!(
            told[asleep_at as usize],
            "the consumer sleeps on slot {asleep_at}, and nobody wakes it"
        );
    }
}

#[test]
fn the_protocol_loses_no_wake_up() {
    loom::model(|| no_wake_up_is_lost(cell));
}

#[test]
#[should_panic(expected = "nobody wakes it")]
fn without_the_full_fence_a_wake_up_is_lost() {
    loom::model(|| no_wake_up_is_lost(|value| Unfenced(cell(value))));
}

#[test]
#[should_panic(expected = "before it was filled")]
fn without_release_and_acquire_an_empty_slot_is_seen() {
    loom::model(|| no_wake_up_is_lost(|value| Unordered(cell(value))));
}

/// Both directions of a ring at once: the back end answers the request while the front end goes to sleep on the answer.
#[test]
fn a_request_and_its_response_both_wake() {
    loom::model(|| {
        let shared = Arc::new([cell(0), cell(1), cell(0), cell(1)]);
        let back = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let [req_prod, req_event, rsp_prod, rsp_event] = &*shared;
                if arm(req_prod, req_event, 0) == 0 {
                    return (true, false);
                }
                (false, publish(rsp_prod, rsp_event, 0, 1))
            })
        };
        let [req_prod, req_event, rsp_prod, rsp_event] = &*shared;
        let told_back = publish(req_prod, req_event, 0, 1);
        let front_sleeps = arm(rsp_prod, rsp_event, 0) == 0;
        let (back_sleeps, told_front) = back.join().unwrap();
        assert!(!back_sleeps || told_back, "the back end was not woken");
        assert!(
            back_sleeps || !front_sleeps || told_front,
            "the front end was not woken"
        );
    });
}
