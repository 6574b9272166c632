//! Memory that another party may change at any time.

// UNSAFETY: the trait is a promise about raw memory, and so are its implementations for smart pointers.
#![expect(unsafe_code)]

use core::marker::PhantomData;
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

/// Bytes to be read that another party may change meanwhile: an address with a lifetime, and no reference.
#[derive(Clone, Copy, Debug)]
pub struct SharedBytes<'a> {
    first: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a [u8]>,
}

// SAFETY: as for `&[u8]`, whose place it takes; memory that is shared is made to be used by several parties.
unsafe impl Send for SharedBytes<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedBytes<'_> {}

impl<'a> SharedBytes<'a> {
    /// A range of shared memory; `None` where it is not wholly inside.
    #[must_use]
    pub fn of<M: SharedMemory + ?Sized>(memory: &'a M, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        if end > memory.len() {
            return None;
        }
        // SAFETY: `offset` is at most the length.
        let first = unsafe { memory.as_ptr().add(offset) };
        Some(Self {
            first,
            len,
            memory: PhantomData,
        })
    }

    /// `len` bytes at an address.
    ///
    /// # Safety
    ///
    /// They are mapped and readable for `'a`.
    #[must_use]
    pub const unsafe fn from_raw(first: NonNull<u8>, len: usize) -> Self {
        Self {
            first,
            len,
            memory: PhantomData,
        }
    }

    /// The first byte. Readable, and not to be written.
    #[must_use]
    pub const fn as_ptr(&self) -> *const u8 {
        self.first.as_ptr()
    }

    /// How many bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a> From<&'a [u8]> for SharedBytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        // A slice's address is never null.
        let first = NonNull::from(bytes).cast();
        Self {
            first,
            len: bytes.len(),
            memory: PhantomData,
        }
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
