//! Pages of the heap in a guest's stead.

// UNSAFETY: memory that is reached by raw pointers only, allocated as such.
#![expect(unsafe_code)]

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use crate::{PAGE_SIZE, SharedMemory};

/// Zeroed pages on the heap, for tests, benchmarks and examples: two sides of a ring in one process.
#[derive(Debug)]
pub struct HeapPages {
    base: NonNull<u8>,
    layout: Layout,
}

impl HeapPages {
    /// Allocates `pages` pages, page-aligned.
    ///
    /// # Panics
    ///
    /// For zero pages, or more than the address space has.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        assert!(pages > 0, "at least one page");
        let layout = Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE)
            .expect("page multiples are valid");
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| handle_alloc_error(layout));
        Self { base, layout }
    }
}

impl Drop for HeapPages {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

// SAFETY: the allocation lives as long as the value and never moves; it is page-aligned.
unsafe impl SharedMemory for HeapPages {
    fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }
    fn len(&self) -> usize {
        self.layout.size()
    }
}

// SAFETY: the memory is plain, and reached only by volatile and atomic accesses.
unsafe impl Send for HeapPages {}
// SAFETY: as above.
unsafe impl Sync for HeapPages {}
