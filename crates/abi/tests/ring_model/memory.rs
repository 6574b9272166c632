//! Memory for rings: in one piece, and in pages apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cantle_abi::ring::{HeapPages, Paged, RingMemory};
use cantle_abi::{PAGE_SIZE, SharedMemory};

pub(crate) fn word(memory: &impl RingMemory, offset: usize) -> &AtomicU32 {
    assert!(offset.is_multiple_of(4) && offset + 4 <= memory.size());
    // SAFETY: aligned and inside the memory, which outlives the borrow; all access to these words is atomic.
    unsafe { AtomicU32::from_ptr(memory.at(offset).cast().as_ptr()) }
}

/// A ring's memory, and what a test may know about it besides.
pub(crate) trait Memory: RingMemory + Clone + Sized {
    fn new(pages: usize) -> Self;
    /// All of it in order, by no way that the ring uses.
    fn words(&self) -> Vec<u32>;
}

impl Memory for Arc<HeapPages> {
    fn new(pages: usize) -> Self {
        Self::new(HeapPages::new(pages))
    }

    fn words(&self) -> Vec<u32> {
        words(self, 0, self.len())
    }
}

fn words(pages: &HeapPages, from: usize, len: usize) -> Vec<u32> {
    let offsets = (from..from + len).step_by(4);
    offsets
        .map(|at| word(&pages, at).load(Ordering::Relaxed))
        .collect()
}

/// One page of more. What lies apart stands in every second page of them, the last in front.
#[derive(Clone)]
pub(crate) struct OneOf {
    pages: Arc<HeapPages>,
    at: usize,
}

// SAFETY: a page inside of pages that keep the promise.
unsafe impl SharedMemory for OneOf {
    fn as_ptr(&self) -> std::ptr::NonNull<u8> {
        assert!(self.at + PAGE_SIZE <= self.pages.len());
        // SAFETY: it is inside, as just seen.
        unsafe { self.pages.as_ptr().add(self.at) }
    }
    fn len(&self) -> usize {
        PAGE_SIZE
    }
}

impl Memory for Paged<OneOf> {
    fn new(count: usize) -> Self {
        let pages = Arc::new(HeapPages::new(2 * count + 1));
        let page = |number: usize| OneOf {
            pages: pages.clone(),
            at: (2 * number + 1) * PAGE_SIZE,
        };
        Self::new((0..count).rev().map(page)).expect("they are a ring's pages")
    }

    fn words(&self) -> Vec<u32> {
        for page in self.pages() {
            let before = words(&page.pages, page.at - PAGE_SIZE, PAGE_SIZE);
            let after = words(&page.pages, page.at + PAGE_SIZE, PAGE_SIZE);
            assert!(
                before.iter().chain(&after).all(|word| *word == 0),
                "something was written between the pages"
            );
        }
        let pages = self.pages();
        pages
            .flat_map(|page| words(&page.pages, page.at, PAGE_SIZE))
            .collect()
    }
}
