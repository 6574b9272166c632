//! Every interleaving of a host that delivers and a guest that takes, masks and unmasks, as far as the memory model goes.

use std::sync::Mutex as StdMutex;

use loom::sync::atomic::{AtomicU32 as LoomU32, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use super::*;

impl Word for LoomU32 {
    fn get(&self) -> u32 {
        self.load(Ordering::SeqCst)
    }
    fn set(&self, value: u32) {
        self.store(value, Ordering::SeqCst);
    }
    fn raise(&self, bits: u32) -> u32 {
        self.fetch_or(bits, Ordering::SeqCst)
    }
    fn lower(&self, bits: u32) -> u32 {
        self.fetch_and(!bits, Ordering::SeqCst)
    }
    fn swap_if(&self, old: u32, new: u32) -> Result<(), u32> {
        self.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .map(drop)
    }
}

/// Two ports on one queue.
struct World {
    words: [LoomU32; 3],
    head: LoomU32,
    ready: LoomU32,
    upcall: LoomU32,
    tail: Mutex<u32>,
    /// What each sender has written before it sends, by port.
    work: [LoomU32; 3],
}

/// How the host puts a port on the queue; the second is wrong.
type Link = fn(&World, u32) -> bool;

impl World {
    fn new() -> Self {
        let three = || [0; 3].map(LoomU32::new);
        Self {
            words: three(),
            head: LoomU32::new(0),
            ready: LoomU32::new(0),
            upcall: LoomU32::new(0),
            tail: Mutex::new(0),
            work: three(),
        }
    }

    fn word(&self, port: u32) -> &LoomU32 {
        &self.words[port as usize]
    }

    fn send(&self, port: u32, link: Link) {
        self.work[port as usize].fetch_add(1, Ordering::Relaxed);
        if self.word(port).raise(PENDING) & (MASKED | LINKED) == 0 {
            self.tell(link(self, port));
        }
    }

    fn unmask_call(&self, port: u32, link: Link) {
        let old = self.word(port).lower(MASKED);
        if old & PENDING != 0 && old & LINKED == 0 {
            self.tell(link(self, port));
        }
    }

    fn tell(&self, first: bool) {
        if first && self.ready.raise(1) & 1 == 0 {
            self.upcall.raise(1);
        }
    }

    fn link(&self, port: u32) -> bool {
        let mut tail = self.tail.lock().unwrap();
        claim(self.word(port), &mut tail, port)
            && append(&mut tail, |port| Some(self.word(port)), &self.head, port)
    }

    /// Forgets that a port may be the tail of the queue that it left.
    fn link_wrongly(&self, port: u32) -> bool {
        let mut tail = self.tail.lock().unwrap();
        claim(self.word(port), &mut 0, port)
            && append(&mut tail, |port| Some(self.word(port)), &self.head, port)
    }

    /// The guest's interrupt, if it was told: takes what is on the queue and notes the work that it sees.
    fn interrupt(&self, head: &mut u32, seen: &mut [u32; 3]) {
        if self.upcall.swap(0, Ordering::SeqCst) == 0 {
            return;
        }
        let mut ready = self.ready.swap(0, Ordering::SeqCst);
        while ready != 0 {
            if *head == 0 {
                *head = self.head.get();
            }
            let port = *head;
            *head = self.unlink(port);
            if *head == 0 {
                ready = 0;
            }
            if self.word(port).get() & (PENDING | MASKED) == PENDING {
                self.word(port).lower(PENDING);
                seen[port as usize] = self.work[port as usize].load(Ordering::Relaxed);
            }
            ready |= self.ready.swap(0, Ordering::SeqCst);
        }
    }

    fn unlink(&self, port: u32) -> u32 {
        let mut seen = self.word(port).get();
        loop {
            let new = seen & !(LINKED | EVTCHN_FIFO_LINK_MASK);
            match self.word(port).swap_if(seen, new) {
                Ok(()) => return seen & EVTCHN_FIFO_LINK_MASK,
                Err(now) => seen = now,
            }
        }
    }
}

/// The host sends to `ports` in turn while the guest takes twice; `masks` has it mask and unmask port 1 in between.
fn check(ports: &'static [u32], masks: bool, link: Link) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let world = Arc::new(World::new());
        let host = {
            let world = world.clone();
            thread::spawn(move || ports.iter().for_each(|port| world.send(*port, link)))
        };
        let state = Arc::new(StdMutex::new((0, [0; 3])));
        let guest = {
            let (world, state) = (world.clone(), state.clone());
            thread::spawn(move || {
                let (head, seen) = &mut *state.lock().unwrap();
                world.interrupt(head, seen);
                if masks {
                    world.word(1).raise(MASKED);
                    world.interrupt(head, seen);
                    world.unmask_call(1, link);
                } else {
                    world.interrupt(head, seen);
                }
            })
        };
        host.join().unwrap();
        guest.join().unwrap();
        let (head, seen) = &mut *state.lock().unwrap();
        world.interrupt(head, seen);
        for port in [1, 2] {
            let work = world.work[port].load(Ordering::Relaxed);
            assert_eq!(seen[port], work, "an event of port {port} is lost");
        }
    });
}

#[test]
fn no_event_is_lost() {
    check(&[1, 2, 1], false, World::link);
    check(&[2, 1, 2, 1], false, World::link);
}

#[test]
fn no_event_is_lost_while_the_guest_masks_and_unmasks() {
    check(&[1, 2], true, World::link);
    check(&[1, 1, 2], true, World::link);
}

/// To show that the model would notice.
#[test]
#[should_panic]
fn a_tail_that_was_taken_off_and_comes_again_loses_events() {
    check(&[1, 1], false, World::link_wrongly);
}

/// However the guest changes a word, the host's part ends, and the port is on the queue or at its head.
#[test]
fn a_word_that_never_keeps_still_is_given_up() {
    struct Restless(std::cell::Cell<u32>);
    impl Word for Restless {
        fn get(&self) -> u32 {
            self.0.set(self.0.get().wrapping_add(1) | LINKED);
            self.0.get()
        }
        fn set(&self, value: u32) {
            self.0.set(value);
        }
        fn raise(&self, bits: u32) -> u32 {
            let old = self.get();
            self.0.set(old | bits);
            old
        }
        fn lower(&self, bits: u32) -> u32 {
            let old = self.get();
            self.0.set(old & !bits);
            old
        }
        fn swap_if(&self, _old: u32, _new: u32) -> Result<(), u32> {
            Err(self.get())
        }
    }
    let (word, head) = (Restless(0.into()), Restless(0.into()));
    let mut tail = 5;
    assert!(append(&mut tail, |_| Some(&word), &head, 6));
    assert_eq!((tail, head.0.get(), word.0.get() & BUSY), (6, 6, 0));
}
