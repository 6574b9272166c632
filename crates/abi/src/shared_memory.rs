//! Memory that another party may change at any time.

// UNSAFETY: the trait is a promise about raw memory, and so are its implementations for smart pointers.
#![expect(unsafe_code)]

use core::ptr::NonNull;

/// Memory shared with a party that is not trusted: a granted page, a ring, shared info.
///
/// Nobody may form a Rust reference to its bytes, since they change under one's feet; they are reached by volatile or
/// atomic accesses only, as the rings of this crate do.
///
/// # Safety
///
/// While the implementing value lives and is not moved out of its smart pointer, `as_ptr()..as_ptr() + len()` is mapped,
/// readable and (for what is lent read-write) writable, is aligned to 8 bytes, and both functions return the same at every call.
pub unsafe trait SharedMemory {
    /// The first byte.
    fn as_ptr(&self) -> NonNull<u8>;

    /// The length in bytes.
    fn len(&self) -> usize;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// SAFETY: the referent keeps the promise for as long as the reference lives.
unsafe impl<T: SharedMemory + ?Sized> SharedMemory for &T {
    fn as_ptr(&self) -> NonNull<u8> {
        (**self).as_ptr()
    }
    fn len(&self) -> usize {
        (**self).len()
    }
}

#[cfg(any(test, doctest, feature = "std"))]
mod smart_pointers {
    use super::{NonNull, SharedMemory};
    use std::{boxed::Box, sync::Arc};

    // SAFETY: the Arc keeps the value alive and in place.
    unsafe impl<T: SharedMemory + ?Sized> SharedMemory for Arc<T> {
        fn as_ptr(&self) -> NonNull<u8> {
            (**self).as_ptr()
        }
        fn len(&self) -> usize {
            (**self).len()
        }
    }

    // SAFETY: the Box keeps the value alive and in place.
    unsafe impl<T: SharedMemory + ?Sized> SharedMemory for Box<T> {
        fn as_ptr(&self) -> NonNull<u8> {
            (**self).as_ptr()
        }
        fn len(&self) -> usize {
            (**self).len()
        }
    }
}
