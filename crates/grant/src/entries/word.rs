//! One word of memory that is shared with a guest: `core`'s atomics, and loom's in the model tests.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, compiler_fence};

/// An atomic word.
pub(crate) trait Word {
    /// What is in it.
    type Value: Copy + Eq;

    fn load(&self, order: Ordering) -> Self::Value;
    fn store(&self, value: Self::Value, order: Ordering);
    /// True where the word was `current`, and is `new` now.
    fn exchange(&self, current: Self::Value, new: Self::Value, success: Ordering) -> bool;
    fn fetch_and(&self, bits: Self::Value, order: Ordering) -> Self::Value;
    fn fetch_or(&self, bits: Self::Value, order: Ordering) -> Self::Value;
    /// Between a sequentially consistent change of one word and such a look at another one: neither passes the other. The
    /// machine's read-modify-write is that already; loom wants to be told.
    fn barrier();
}

macro_rules! words {
    ($($atomic:ident: $value:ty),*) => {$(
        impl Word for $atomic {
            type Value = $value;

            fn load(&self, order: Ordering) -> $value {
                $atomic::load(self, order)
            }
            fn store(&self, value: $value, order: Ordering) {
                $atomic::store(self, value, order);
            }
            fn exchange(&self, current: $value, new: $value, success: Ordering) -> bool {
                self.compare_exchange(current, new, success, Ordering::Relaxed)
                    .is_ok()
            }
            fn fetch_and(&self, bits: $value, order: Ordering) -> $value {
                $atomic::fetch_and(self, bits, order)
            }
            fn fetch_or(&self, bits: $value, order: Ordering) -> $value {
                $atomic::fetch_or(self, bits, order)
            }
            fn barrier() {
                compiler_fence(Ordering::SeqCst);
            }
        }
    )*};
}

words!(AtomicU16: u16, AtomicU32: u32, AtomicU64: u64);
