//! A reader-writer lock that is a part of a word; the rest of it counts what readers did, and is free for 32 bits of the owner's.
//!
//! Readers are many and short: a delivery. Writers are few, and one at a time by the callers' own rule (two are safe, too). A
//! writer that waits keeps new readers out, so that a storm of signals cannot keep a port from being closed. A reader that wants to
//! be counted is so by the step by which it leaves, which costs nothing more.

// UNSAFETY: a lock hands out references to what is in its cell.
#![expect(unsafe_code)]

use std::cell::UnsafeCell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Somebody writes, or waits to; the bits below count readers, also those about to turn back: far fewer than there are bits for, a
/// thread each.
const WRITER: u64 = 1 << 15;
/// The lock's bits.
const LOCK: u64 = (1 << 16) - 1;
/// Where the owner's bits are.
const BESIDE: u32 = 16;
/// One counted reader; the count is at the top, so that it overflows into nothing.
const COUNTED: u64 = 1 << 48;

/// A lock's word: `core`'s atomic, and loom's in the model test.
pub(crate) trait State {
    /// Counts a reader in, acquiring what the last writer released; returns what was.
    fn enter(&self) -> u64;
    /// Adds to the word, releasing a reader.
    fn leave(&self, add: u64);
    /// Sets [`WRITER`]; returns what was.
    fn claim(&self) -> u64;
    /// Releases the writer.
    fn yield_up(&self);
    /// Reads, acquiring what readers and writers released.
    fn get(&self) -> u64;
    /// Lets others run; `turn` counts up.
    fn wait(turn: u32);
}

impl State for AtomicU64 {
    // Acquire pairs with `yield_up`.
    #[inline]
    fn enter(&self) -> u64 {
        self.fetch_add(1, Ordering::Acquire)
    }
    // Release pairs with the writer's `get`.
    #[inline]
    fn leave(&self, add: u64) {
        self.fetch_add(add, Ordering::Release);
    }
    // Acquire pairs with `yield_up` of the writer before.
    fn claim(&self) -> u64 {
        self.fetch_or(WRITER, Ordering::Acquire)
    }
    fn yield_up(&self) {
        self.fetch_and(!WRITER, Ordering::Release);
    }
    fn get(&self) -> u64 {
        self.load(Ordering::Acquire)
    }
    /// Spins, then yields, then sleeps: also where the holder is of lower priority it gets to run.
    fn wait(turn: u32) {
        match turn {
            0..32 => std::hint::spin_loop(),
            32..64 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// What a reader adds when it leaves uncounted.
const UNCOUNTED: u64 = 1_u64.wrapping_neg();

/// Returns the word as it was.
#[inline]
pub(crate) fn lock_read<S: State>(state: &S) -> u64 {
    let word = state.enter();
    if word & WRITER == 0 {
        word
    } else {
        lock_read_slowly(state)
    }
}

#[cold]
fn lock_read_slowly<S: State>(state: &S) -> u64 {
    loop {
        state.leave(UNCOUNTED);
        let mut turn = 0;
        while state.get() & WRITER != 0 {
            S::wait(turn);
            turn += 1;
        }
        let word = state.enter();
        if word & WRITER == 0 {
            return word;
        }
    }
}

pub(crate) fn lock_write<S: State>(state: &S) {
    let mut turn = 0;
    while state.claim() & WRITER != 0 {
        S::wait(turn);
        turn += 1;
    }
    let mut turn = 0;
    while state.get() & LOCK != WRITER {
        S::wait(turn);
        turn += 1;
    }
}

/// A value behind the lock.
pub(crate) struct SlotLock<T> {
    word: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives out `&T` to many threads at once, or moves a `T` in and out from one of them at a time.
unsafe impl<T: Send + Sync> Sync for SlotLock<T> {}

/// Read access, until dropped.
pub(crate) struct Reading<'a, T> {
    lock: &'a SlotLock<T>,
    word: u64,
}

impl<T> SlotLock<T> {
    pub(crate) fn new(value: T, beside: u32) -> Self {
        Self {
            word: AtomicU64::new(u64::from(beside) << BESIDE),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for a writer. Not to be called while holding it: a writer that waits would wait for ever.
    #[inline]
    pub(crate) fn read(&self) -> Reading<'_, T> {
        let word = lock_read(&self.word);
        Reading { lock: self, word }
    }

    /// Puts in `new` and returns what was there. `meanwhile` runs with the lock held and sees what is there still; it must not
    /// panic, and locks no other slot.
    pub(crate) fn replace(&self, new: T, meanwhile: impl FnOnce(&T)) -> T {
        struct Writing<'a>(&'a AtomicU64);
        impl Drop for Writing<'_> {
            fn drop(&mut self) {
                self.0.yield_up();
            }
        }
        lock_write(&self.word);
        let _writing = Writing(&self.word);
        // SAFETY: the write lock is held, so that nobody else has a reference.
        let value = unsafe { &mut *self.value.get() };
        meanwhile(value);
        std::mem::replace(value, new)
    }

    /// The owner's bits. Not guarded by the lock.
    #[inline]
    pub(crate) fn beside(&self) -> u32 {
        beside(self.word.load(Ordering::SeqCst))
    }

    /// Changes the owner's bits; returns what they were.
    pub(crate) fn change_beside(&self, change: impl Fn(u32) -> u32) -> u32 {
        let bits = u64::from(u32::MAX) << BESIDE;
        let update = |word| Some(word & !bits | u64::from(change(beside(word))) << BESIDE);
        let order = Ordering::SeqCst;
        let (Ok(word) | Err(word)) = self.word.fetch_update(order, order, update);
        beside(word)
    }

    /// Readers that were counted since the count was taken last.
    pub(crate) fn count(&self) -> u64 {
        self.word.load(Ordering::Relaxed) / COUNTED
    }

    /// Takes the count. To be called with the lock held, so that it is of readers of what is there now.
    pub(crate) fn take_count(&self) -> u64 {
        // Relaxed: a figure; the lock orders the rest.
        self.word.fetch_and(COUNTED - 1, Ordering::Relaxed) / COUNTED
    }
}

fn beside(word: u64) -> u32 {
    u32::try_from(word >> BESIDE & u64::from(u32::MAX)).unwrap_or(0)
}

impl<T> Reading<'_, T> {
    /// Whether the count is half full: somebody should take it before it overflows.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.word >> 63 != 0
    }

    /// Lets go, and is counted.
    #[inline]
    pub(crate) fn end_counted(self) {
        self.lock.word.leave(COUNTED.wrapping_add(UNCOUNTED));
        std::mem::forget(self);
    }
}

impl<T> Deref for Reading<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the read lock is held as long as `self`: there are shared references only.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> Drop for Reading<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.word.leave(UNCOUNTED);
    }
}

#[cfg(test)]
mod tests;
