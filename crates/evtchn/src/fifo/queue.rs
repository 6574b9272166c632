//! Putting a port at the end of a queue that the guest takes from at the same time.
//!
//! A queue is a chain of event words in guest memory, from the head in the vCPU's control block; each word names the next port.
//! The guest takes from the head and never writes a link but to clear it with the bit LINKED. The host alone appends, under a lock
//! of its own, and remembers the tail itself: it never walks the chain and believes nothing that it reads there.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use cantle_abi::event_channel::{
    EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_PENDING,
};

pub(crate) const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
pub(crate) const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
pub(crate) const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
pub(crate) const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;

/// Tries to set a link before the guest is asked to keep still, and after.
const TRIES: [u32; 2] = [4, 60];

/// A word in guest memory: `core`'s atomic, and loom's in the model test. All sequentially consistent: the interface is a
/// conversation over two words at a time (word and head, head and ready).
pub(crate) trait Word {
    fn get(&self) -> u32;
    fn set(&self, value: u32);
    /// Sets bits; returns what was.
    fn raise(&self, bits: u32) -> u32;
    /// Clears bits; returns what was.
    fn lower(&self, bits: u32) -> u32;
    /// Replaces `old` by `new`, or returns what is there.
    fn swap_if(&self, old: u32, new: u32) -> Result<(), u32>;
}

impl Word for AtomicU32 {
    fn get(&self) -> u32 {
        self.load(SeqCst)
    }
    fn set(&self, value: u32) {
        self.store(value, SeqCst);
    }
    fn raise(&self, bits: u32) -> u32 {
        self.fetch_or(bits, SeqCst)
    }
    fn lower(&self, bits: u32) -> u32 {
        self.fetch_and(!bits, SeqCst)
    }
    fn swap_if(&self, old: u32, new: u32) -> Result<(), u32> {
        self.compare_exchange(old, new, SeqCst, SeqCst).map(drop)
    }
}

/// Takes a port for a queue, where it is on none: true then, and its word is LINKED. `last` is the tail of the queue that it was
/// last put on: where that is the port itself, the guest has taken it off, and nothing may be linked behind it any more.
pub(crate) fn claim<W: Word>(word: &W, last: &mut u32, port: u32) -> bool {
    if word.raise(LINKED) & LINKED != 0 {
        return false;
    }
    if *last == port {
        *last = 0;
    }
    true
}

/// Appends a port that was claimed behind `tail`, which becomes it; `word` finds a port's word. Returns whether the guest is to
/// be told by the ready bit: the port is the head now.
pub(crate) fn append<'a, W: Word + 'a>(
    tail: &mut u32,
    word: impl Fn(u32) -> Option<&'a W>,
    head: &W,
    port: u32,
) -> bool {
    let before = std::mem::replace(tail, port);
    if before != 0 && word(before).is_some_and(|word| set_link(word, port)) {
        return false;
    }
    // The head is there before the ready bit is (XSA-358).
    head.set(port);
    true
}

/// Links `port` behind a tail that is on the queue still; false where it is not, or where the guest does not leave the word
/// alone. After that the queue begins anew with the port: a kernel that keeps the rules has taken all before it.
fn set_link<W: Word>(tail: &W, port: u32) -> bool {
    let mut seen = tail.get();
    for (round, tries) in TRIES.into_iter().enumerate() {
        let busy = round > 0;
        if busy {
            // Well-behaved guests wait with unmasking while this is set.
            seen = tail.raise(BUSY) | BUSY;
        }
        for _ in 0..tries {
            if seen & LINKED == 0 {
                if busy {
                    tail.lower(BUSY);
                }
                return false;
            }
            match tail.swap_if(seen, (seen & !(BUSY | EVTCHN_FIFO_LINK_MASK)) | port) {
                Ok(()) => return true,
                Err(now) => seen = now,
            }
        }
    }
    tail.lower(BUSY);
    false
}

#[cfg(test)]
mod tests;
