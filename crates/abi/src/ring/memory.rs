//! The layout of a ring's pages, and raw access to slots and indices.

// UNSAFETY: slots and indices are reached through raw pointers into memory that another party writes.
#![expect(unsafe_code)]

use core::mem::{MaybeUninit, size_of};
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::SharedMemory;

/// Bytes before the first slot: four indices and padding.
pub const RING_HEADER_SIZE: usize = 64;

/// The four indices' places in the header, in bytes.
#[derive(Clone, Copy)]
pub(super) enum Index {
    ReqProd = 0,
    ReqEvent = 4,
    RspProd = 8,
    RspEvent = 12,
}

/// How many slots of `slot_size` bytes fit in a ring of `len` bytes: the largest power of two; 0 where none fits.
#[must_use]
pub const fn slots(len: usize, slot_size: usize) -> u32 {
    if len <= RING_HEADER_SIZE || slot_size == 0 {
        return 0;
    }
    let n = (len - RING_HEADER_SIZE) / slot_size;
    if n == 0 || n > 1 << 24 {
        return 0;
    }
    1 << n.ilog2()
}

/// A ring's memory with its slot geometry: the larger of request and response, a power of two of them.
pub(super) struct Slots<Q, S, M> {
    memory: M,
    slots: u32,
    _kinds: core::marker::PhantomData<fn() -> (Q, S)>,
}

impl<Q, S, M: SharedMemory> Slots<Q, S, M> {
    const SLOT_SIZE: usize = if size_of::<Q>() > size_of::<S>() {
        size_of::<Q>()
    } else {
        size_of::<S>()
    };
    const WORDS: () = assert!(
        size_of::<Q>().is_multiple_of(4) && size_of::<S>().is_multiple_of(4),
        "requests and responses are whole 32-bit words"
    );
    /// Slots begin at multiples of 8 bytes, so that what is in them can be copied by 64-bit words.
    const WIDE: bool = Self::SLOT_SIZE.is_multiple_of(8);

    /// `None` where not even one slot fits.
    pub(super) fn new(memory: M) -> Option<Self> {
        let () = Self::WORDS;
        let slots = slots(memory.len(), Self::SLOT_SIZE);
        (slots != 0).then_some(Self {
            memory,
            slots,
            _kinds: core::marker::PhantomData,
        })
    }

    pub(super) fn count(&self) -> u32 {
        self.slots
    }

    pub(super) fn memory(&self) -> &M {
        &self.memory
    }

    pub(super) fn into_memory(self) -> M {
        self.memory
    }

    pub(super) fn index(&self, which: Index) -> &AtomicU32 {
        // SAFETY: `new` saw more than RING_HEADER_SIZE bytes, 8-aligned by the trait's promise; the memory outlives `&self`,
        // and an atomic is the one kind of reference that may alias memory others write.
        unsafe { AtomicU32::from_ptr(self.memory.as_ptr().add(which as usize).cast().as_ptr()) }
    }

    fn slot(&self, index: u32) -> NonNull<u32> {
        let offset = RING_HEADER_SIZE + (index & (self.slots - 1)) as usize * Self::SLOT_SIZE;
        // SAFETY: the masked index is below `slots`, and `slots * SLOT_SIZE + RING_HEADER_SIZE` fits in the memory.
        unsafe { self.memory.as_ptr().add(offset).cast() }
    }

    /// Copies a request out: each word is read once.
    pub(super) fn read_request(&self, index: u32) -> Q
    where
        Q: FromBytes,
    {
        // SAFETY: the slot is at least as large as a request.
        unsafe { copy_out(self.slot(index), Self::WIDE) }
    }

    /// Copies a response out: each word is read once.
    pub(super) fn read_response(&self, index: u32) -> S
    where
        S: FromBytes,
    {
        // SAFETY: the slot is at least as large as a response.
        unsafe { copy_out(self.slot(index), Self::WIDE) }
    }

    pub(super) fn write_request(&self, index: u32, request: &Q)
    where
        Q: IntoBytes + Immutable,
    {
        // SAFETY: the slot is at least as large as a request.
        unsafe { copy_in(self.slot(index), request.as_bytes(), Self::WIDE) }
    }

    pub(super) fn write_response(&self, index: u32, response: &S)
    where
        S: IntoBytes + Immutable,
    {
        // SAFETY: the slot is at least as large as a response.
        unsafe { copy_in(self.slot(index), response.as_bytes(), Self::WIDE) }
    }
}

/// Copies a `T` out of shared memory, each word read once: 64-bit words where `wide` and the size allow it, else 32-bit ones.
///
/// # Safety
///
/// `from` is valid for volatile reads of `size_of::<T>()` bytes, which is a multiple of 4, and aligned to 8 where `wide`.
unsafe fn copy_out<T: FromBytes>(from: NonNull<u32>, wide: bool) -> T {
    let mut copy = MaybeUninit::<T>::uninit();
    if wide && size_of::<T>().is_multiple_of(8) {
        let (from, to) = (from.cast::<u64>(), copy.as_mut_ptr().cast::<u64>());
        for word in 0..size_of::<T>() / 8 {
            // SAFETY: the caller vouches for the source and its alignment; the target has the same number of words. It may be
            // aligned to less than a word, hence the unaligned write.
            unsafe { to.add(word).write_unaligned(from.add(word).read_volatile()) };
        }
    } else {
        let to = copy.as_mut_ptr().cast::<u32>();
        for word in 0..size_of::<T>() / 4 {
            // SAFETY: as above, by 32-bit words.
            unsafe { to.add(word).write_unaligned(from.add(word).read_volatile()) };
        }
    }
    // SAFETY: all bytes were written, and any bytes are a valid `T` by `FromBytes`.
    unsafe { copy.assume_init() }
}

/// Copies bytes into shared memory by words, 64-bit ones where `wide` and the length allow it.
///
/// # Safety
///
/// `to` is valid for volatile writes of `bytes.len()` bytes, which is a multiple of 4, and aligned to 8 where `wide`.
unsafe fn copy_in(to: NonNull<u32>, bytes: &[u8], wide: bool) {
    if wide && bytes.len().is_multiple_of(8) {
        for (word, chunk) in bytes.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: the caller vouches for the target and its alignment.
            unsafe {
                to.cast::<u64>()
                    .add(word)
                    .write_volatile(u64::from_ne_bytes(*chunk))
            };
        }
    } else {
        for (word, chunk) in bytes.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: the caller vouches for the target.
            unsafe { to.add(word).write_volatile(u32::from_ne_bytes(*chunk)) };
        }
    }
}

#[cfg(any(test, doctest, feature = "std"))]
mod heap {
    use super::NonNull;
    use crate::{PAGE_SIZE, SharedMemory};
    use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

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
}

#[cfg(any(test, doctest, feature = "std"))]
pub use heap::HeapPages;
