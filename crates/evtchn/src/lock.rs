//! A reader-writer lock of four bytes, and a word beside it that would otherwise be padding.
//!
//! Readers are many and short: a delivery. Writers are few, and one at a time by the callers' own rule (two are safe, too). A
//! writer that waits keeps new readers out, so that a storm of signals cannot keep a port from being closed.

// UNSAFETY: a lock hands out references to what is in its cell.
#![expect(unsafe_code)]

use std::cell::UnsafeCell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Somebody writes, or waits to; the bits below count readers, also those about to turn back.
const WRITER: u32 = 1 << 31;

/// A lock's word: `core`'s atomic, and loom's in the model test.
pub(crate) trait State {
    /// Counts a reader, acquiring what the last writer released; returns what was.
    fn enter(&self) -> u32;
    /// Releases a reader.
    fn leave(&self);
    /// Sets [`WRITER`]; returns what was.
    fn claim(&self) -> u32;
    /// Releases the writer.
    fn yield_up(&self);
    /// Reads, acquiring what readers and writers released.
    fn get(&self) -> u32;
    /// Lets others run; `turn` counts up.
    fn wait(turn: u32);
}

impl State for AtomicU32 {
    // Acquire pairs with `yield_up`.
    fn enter(&self) -> u32 {
        self.fetch_add(1, Ordering::Acquire)
    }
    // Release pairs with the writer's `get`.
    fn leave(&self) {
        self.fetch_sub(1, Ordering::Release);
    }
    // Acquire pairs with `yield_up` of the writer before.
    fn claim(&self) -> u32 {
        self.fetch_or(WRITER, Ordering::Acquire)
    }
    fn yield_up(&self) {
        self.fetch_and(!WRITER, Ordering::Release);
    }
    fn get(&self) -> u32 {
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

pub(crate) fn lock_read<S: State>(state: &S) {
    if state.enter() & WRITER != 0 {
        lock_read_slowly(state);
    }
}

#[cold]
fn lock_read_slowly<S: State>(state: &S) {
    loop {
        state.leave();
        let mut turn = 0;
        while state.get() & WRITER != 0 {
            S::wait(turn);
            turn += 1;
        }
        if state.enter() & WRITER == 0 {
            return;
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
    while state.get() != WRITER {
        S::wait(turn);
        turn += 1;
    }
}

/// A value behind the lock, and a word beside it.
pub(crate) struct SlotLock<T> {
    state: AtomicU32,
    /// Free to use, with or without the lock.
    pub(crate) beside: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives out `&T` to many threads at once, or moves a `T` in and out from one of them at a time.
unsafe impl<T: Send + Sync> Sync for SlotLock<T> {}

/// Read access, until dropped.
pub(crate) struct Reading<'a, T>(&'a SlotLock<T>);

impl<T> SlotLock<T> {
    pub(crate) fn new(value: T, beside: u32) -> Self {
        Self {
            state: AtomicU32::new(0),
            beside: AtomicU32::new(beside),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for a writer. Not to be called while holding it: a writer that waits would wait for ever.
    pub(crate) fn read(&self) -> Reading<'_, T> {
        lock_read(&self.state);
        Reading(self)
    }

    /// Puts in `new` and returns what was there. `meanwhile` runs with the lock held; it must not panic, and locks no other slot.
    pub(crate) fn replace(&self, new: T, meanwhile: impl FnOnce()) -> T {
        struct Writing<'a>(&'a AtomicU32);
        impl Drop for Writing<'_> {
            fn drop(&mut self) {
                self.0.yield_up();
            }
        }
        lock_write(&self.state);
        let _writing = Writing(&self.state);
        meanwhile();
        // SAFETY: the write lock is held, so that nobody else has a reference.
        std::mem::replace(unsafe { &mut *self.value.get() }, new)
    }
}

impl<T> Deref for Reading<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the read lock is held as long as `self`: there are shared references only.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for Reading<'_, T> {
    fn drop(&mut self) {
        self.0.state.leave();
    }
}

#[cfg(test)]
mod tests;
