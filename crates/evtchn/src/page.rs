//! Atomics in a page that the guest writes too.

// UNSAFETY: atomics are laid over raw memory that another party shares.
#![expect(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use cantle_abi::SharedMemory;

/// A guest's page, reached by atomics only. Keeps the memory alive.
pub(crate) struct SharedPage {
    base: NonNull<u8>,
    len: usize,
    _memory: Arc<dyn SharedMemory + Send + Sync>,
}

// SAFETY: the memory may be reached from any thread (`_memory` is Send and Sync, and keeps it mapped), and this type hands
// out nothing but references to atomics.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    pub(crate) fn new(memory: Arc<dyn SharedMemory + Send + Sync>) -> Self {
        Self {
            base: memory.as_ptr(),
            len: memory.len(),
            _memory: memory,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The 64-bit word at `offset` bytes; `None` where it does not fit or is not aligned.
    pub(crate) fn u64(&self, offset: usize) -> Option<&AtomicU64> {
        if !offset.is_multiple_of(8) || offset.checked_add(8)? > self.len {
            return None;
        }
        // SAFETY: in range and aligned (the base is, by the trait's promise); the memory lives as long as `self`, and all
        // other accesses by this process are atomic. The guest's are outside of Rust's view.
        Some(unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) })
    }

    /// The 32-bit word at `offset` bytes; `None` where it does not fit or is not aligned.
    pub(crate) fn u32(&self, offset: usize) -> Option<&AtomicU32> {
        if !offset.is_multiple_of(4) || offset.checked_add(4)? > self.len {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) })
    }

    /// The byte at `offset`; `None` where there is none.
    pub(crate) fn u8(&self, offset: usize) -> Option<&AtomicU8> {
        if offset >= self.len {
            return None;
        }
        // SAFETY: in range; otherwise as above.
        Some(unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(offset)) })
    }
}
