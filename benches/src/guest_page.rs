//! A page of a guest, as the guest itself uses it.

// UNSAFETY: atomics in a page that two sides share.
#![expect(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use cantle_abi::SharedMemory;
use cantle_abi::ring::HeapPages;

/// Shared memory of a guest on the heap.
#[derive(Clone, Debug)]
pub(crate) struct GuestPage(Arc<HeapPages>);

impl GuestPage {
    /// One zeroed page.
    pub(crate) fn new() -> Self {
        Self(Arc::new(HeapPages::new(1)))
    }

    /// What the host is given.
    pub(crate) fn memory(&self) -> Arc<HeapPages> {
        self.0.clone()
    }

    /// Sets all bytes to zero: the guest has taken everything.
    pub(crate) fn clear(&self) {
        for offset in 0..self.0.len() {
            // SAFETY: within the page, which `self.0` keeps; an atomic may alias what others access atomically.
            let byte = unsafe { AtomicU8::from_ptr(self.0.as_ptr().as_ptr().add(offset)) };
            byte.store(0, Ordering::SeqCst);
        }
    }
}
