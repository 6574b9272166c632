//! The two rules by which a ring's sides share an index without losing a wake-up.
//!
//! The producer publishes, then looks whether the consumer asked to be told; the consumer asks, then looks
//! whether something was published meanwhile. A full fence stands between the two steps on both sides, so at least
//! one of them sees the other: this is Dekker's pattern, and `tests/loom_ring.rs` tries it exhaustively.

use core::sync::atomic::{AtomicU32, Ordering, fence};

/// One index in shared memory. Implemented by `core`'s atomic, and by loom's in the model test.
pub trait IndexCell {
    /// Reads the index.
    fn load(&self, order: Ordering) -> u32;
    /// Writes the index.
    fn store(&self, value: u32, order: Ordering);
    /// A full fence of the same family of atomics.
    fn full_fence();
}

impl IndexCell for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }
    fn store(&self, value: u32, order: Ordering) {
        AtomicU32::store(self, value, order);
    }
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// Publishes the slots from `old` up to `new`; true where the consumer asked to be notified for one of them.
///
/// `prod` and `event` are the pair of one direction: `req_prod` with `req_event`, or `rsp_prod` with `rsp_event`.
pub fn publish<C: IndexCell>(prod: &C, event: &C, old: u32, new: u32) -> bool {
    // Release: pairs with the consumer's acquiring load of the producer index, so that it sees the slots' contents.
    prod.store(new, Ordering::Release);
    // Pairs with the fence in `arm`.
    C::full_fence();
    // Relaxed: the fence orders it; the value only decides whether to notify.
    let event = event.load(Ordering::Relaxed);
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// Asks for a notification at the next slot after `cons`, and returns the producer index as seen after asking.
///
/// Where that differs from `cons` there is work, and sleeping now would be wrong.
pub fn arm<C: IndexCell>(prod: &C, event: &C, cons: u32) -> u32 {
    event.store(cons.wrapping_add(1), Ordering::Relaxed);
    // Pairs with the fence in `publish`.
    C::full_fence();
    seen(prod)
}

/// The producer index as published; what was written before it is visible afterwards.
pub fn seen<C: IndexCell>(prod: &C) -> u32 {
    // Acquire: pairs with the releasing store in `publish`.
    prod.load(Ordering::Acquire)
}
