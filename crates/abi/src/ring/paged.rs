//! A ring's pages where each is mapped somewhere else.

// UNSAFETY: the implementation of a promise about raw memory.
#![expect(unsafe_code)]

use core::fmt;
use core::ptr::NonNull;

use super::RingMemory;
use crate::{PAGE_SIZE, SharedMemory};

/// The most pages of a [`Paged`]: a ring's `ring-page-order` is 4 at most.
pub const MAX_RING_PAGES: usize = 16;

/// The pages `P` of a ring, in the ring's order, each mapped wherever it is: a front end grants them one by one.
///
/// What lies within a page costs as much as in contiguous memory, up to finding the page. A ring of one page may be a `Paged` too.
#[derive(Clone)]
pub struct Paged<P> {
    /// The first `count` are there.
    pages: [Option<P>; MAX_RING_PAGES],
    count: usize,
}

/// These are no pages of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PagedError {
    /// There are none, or more than [`MAX_RING_PAGES`].
    Count,
    /// One is not of [`PAGE_SIZE`].
    Size {
        /// Which, from 0.
        page: usize,
        /// Its length in bytes.
        len: usize,
    },
}

impl fmt::Display for PagedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => write!(f, "a ring has 1 to {MAX_RING_PAGES} pages"),
            Self::Size { page, len } => write!(f, "page {page} of a ring has {len} bytes"),
        }
    }
}

impl core::error::Error for PagedError {}

impl<P: SharedMemory> Paged<P> {
    /// A ring's memory of these pages in this order. At most one more than [`MAX_RING_PAGES`] is taken from the iterator.
    ///
    /// # Errors
    ///
    /// [`PagedError`] where their number or the length of one is wrong.
    pub fn new(pages: impl IntoIterator<Item = P>) -> Result<Self, PagedError> {
        let mut paged = Self {
            pages: [const { None }; MAX_RING_PAGES],
            count: 0,
        };
        for (page, memory) in pages.into_iter().enumerate() {
            let place = paged.pages.get_mut(page).ok_or(PagedError::Count)?;
            let len = memory.len();
            if len != PAGE_SIZE {
                return Err(PagedError::Size { page, len });
            }
            *place = Some(memory);
            paged.count = page + 1;
        }
        if paged.count == 0 {
            return Err(PagedError::Count);
        }
        Ok(paged)
    }
}

impl<P> Paged<P> {
    /// The pages in the ring's order.
    pub fn pages(&self) -> impl Iterator<Item = &P> {
        self.pages.iter().flatten()
    }

    /// Gives the pages back, in the ring's order.
    pub fn into_pages(self) -> impl Iterator<Item = P> {
        self.pages.into_iter().flatten()
    }
}

// SAFETY: the pages are of one page each, as `new` saw, and their own promise is of as much memory as that, aligned to 8.
unsafe impl<P: SharedMemory> RingMemory for Paged<P> {
    const APART: bool = true;

    fn size(&self) -> usize {
        self.count * PAGE_SIZE
    }

    unsafe fn at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: an offset below `size` is in one of the first `count` pages, which are there.
        let page = unsafe { self.pages.get_unchecked(offset / PAGE_SIZE).as_ref() };
        // SAFETY: as above.
        let page = unsafe { page.unwrap_unchecked() };
        // SAFETY: the remainder is inside the page.
        unsafe { page.as_ptr().add(offset % PAGE_SIZE) }
    }
}

impl<P> fmt::Debug for Paged<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paged")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_RING_PAGES, Paged, PagedError, RingMemory};
    use crate::ring::HeapPages;
    use crate::{PAGE_SIZE, SharedMemory};

    fn pages(count: usize) -> impl Iterator<Item = HeapPages> {
        (0..count).map(|_| HeapPages::new(1))
    }

    #[test]
    fn only_one_to_sixteen_single_pages_are_taken() {
        for count in [0, MAX_RING_PAGES + 1, usize::MAX] {
            assert_eq!(Paged::new(pages(count)).err(), Some(PagedError::Count));
        }
        for count in 1..=MAX_RING_PAGES {
            let paged = Paged::new(pages(count)).expect("as many as may be");
            assert_eq!(paged.size(), count * PAGE_SIZE);
            assert_eq!(paged.into_pages().count(), count);
        }
        let second_is_long = [HeapPages::new(1), HeapPages::new(2)];
        let size = PagedError::Size { page: 1, len: 8192 };
        assert_eq!(Paged::new(second_is_long).err(), Some(size));
    }

    #[test]
    fn an_offset_is_found_in_its_page() {
        let paged = Paged::new(pages(3)).expect("as many as may be");
        for (number, page) in paged.pages().enumerate() {
            for within in [0, 64, PAGE_SIZE - 1] {
                // SAFETY: there are three pages.
                let found = unsafe { paged.at(number * PAGE_SIZE + within) };
                assert_eq!(found.addr().get(), page.as_ptr().addr().get() + within);
            }
        }
    }
}
