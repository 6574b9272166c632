//! The layout of a ring's pages, and raw access to slots and indices.

// UNSAFETY: slots and indices are reached through raw pointers into memory that another party writes.
#![expect(unsafe_code)]

use core::marker::PhantomData;
use core::mem::{MaybeUninit, size_of};
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{PAGE_SIZE, SharedMemory};

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

/// Memory that the slots of a ring lie in: one piece (any [`SharedMemory`]), or pages mapped apart ([`Paged`](super::Paged)).
///
/// # Safety
///
/// While the implementing value lives and stays where it is, both functions return the same at every call. For each `offset` below
/// `size()`, the bytes from `at(offset)` up to the end of the memory or, where `APART`, to the next offset that is a multiple of
/// [`PAGE_SIZE`], are mapped, readable and (for what is lent read-write) writable. An `offset` divisible by 4 or 8 gives a pointer that is.
pub unsafe trait RingMemory {
    /// Whether the memory is in pieces. A constant, so that memory in one piece pays nothing for the other kind.
    const APART: bool;

    /// The length in bytes, over all pieces.
    fn size(&self) -> usize;

    /// Where the byte at an offset is.
    ///
    /// # Safety
    ///
    /// `offset` is below `size()`.
    unsafe fn at(&self, offset: usize) -> NonNull<u8>;
}

// SAFETY: `SharedMemory` is a promise of one piece, aligned to 8.
unsafe impl<M: SharedMemory + ?Sized> RingMemory for M {
    const APART: bool = false;

    fn size(&self) -> usize {
        self.len()
    }

    unsafe fn at(&self, offset: usize) -> NonNull<u8> {
        // SAFETY: the caller's offset is inside the memory.
        unsafe { self.as_ptr().add(offset) }
    }
}

/// A ring's memory with its slot geometry: the larger of request and response, a power of two of them.
pub(super) struct Slots<Q, S, M> {
    memory: M,
    slots: u32,
    _kinds: PhantomData<fn() -> (Q, S)>,
}

impl<Q, S, M: RingMemory> Slots<Q, S, M> {
    const SLOT_SIZE: usize = if size_of::<Q>() > size_of::<S>() {
        size_of::<Q>()
    } else {
        size_of::<S>()
    };

    /// `None` where not even one slot fits.
    pub(super) fn new(memory: M) -> Option<Self> {
        let slots = slots(memory.size(), Self::SLOT_SIZE);
        (slots != 0).then_some(Self {
            memory,
            slots,
            _kinds: PhantomData,
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
        // SAFETY: `new` saw more than RING_HEADER_SIZE bytes, and all indices are in the first of any pieces.
        let index = unsafe { self.memory.at(which as usize) };
        // SAFETY: inside the memory, and aligned, as the trait promises; the memory outlives `&self`, and an atomic is the one kind of
        // reference that may alias memory others write.
        unsafe { AtomicU32::from_ptr(index.cast().as_ptr()) }
    }

    /// Where a slot begins. It ends inside the memory: the masked index is below `slots`, and so many fit.
    fn offset(&self, index: u32) -> usize {
        RING_HEADER_SIZE + (index & (self.slots - 1)) as usize * Self::SLOT_SIZE
    }

    /// Whether a `T` in a slot can be copied by 64-bit words: slots begin at multiples of 8 bytes, and it is whole such words.
    ///
    /// Does not compile for what is larger than a slot or no whole 32-bit words.
    const fn wide<T>() -> bool {
        const {
            assert!(size_of::<T>() <= Self::SLOT_SIZE && size_of::<T>().is_multiple_of(4));
            Self::SLOT_SIZE.is_multiple_of(8) && size_of::<T>().is_multiple_of(8)
        }
    }

    /// Copies a request out: each word is read once.
    pub(super) fn read_request(&self, index: u32) -> Q
    where
        Q: FromBytes,
    {
        self.read(index)
    }

    /// Copies a response out: each word is read once.
    pub(super) fn read_response(&self, index: u32) -> S
    where
        S: FromBytes,
    {
        self.read(index)
    }

    pub(super) fn write_request(&self, index: u32, request: &Q)
    where
        Q: IntoBytes + Immutable,
    {
        self.write(index, request);
    }

    pub(super) fn write_response(&self, index: u32, response: &S)
    where
        S: IntoBytes + Immutable,
    {
        self.write(index, response);
    }

    fn read<T: FromBytes>(&self, index: u32) -> T {
        let (offset, wide) = (self.offset(index), Self::wide::<T>());
        let mut copy = MaybeUninit::<T>::uninit();
        let to = NonNull::from_mut(&mut copy).cast::<u8>();
        if M::APART && straddles(offset, size_of::<T>()) {
            // SAFETY: the slot is inside the memory and at least as large as `T`, as the copy is.
            unsafe { copy_out_apart(&self.memory, offset, to, size_of::<T>(), wide) };
        } else {
            // SAFETY: as above, and the slot is in one piece.
            unsafe { copy_out(self.memory.at(offset), to, size_of::<T>(), wide) };
        }
        // SAFETY: all bytes were written, and any bytes are a valid `T` by `FromBytes`.
        unsafe { copy.assume_init() }
    }

    fn write<T: IntoBytes + Immutable>(&self, index: u32, value: &T) {
        let (offset, wide) = (self.offset(index), Self::wide::<T>());
        if M::APART && straddles(offset, size_of::<T>()) {
            // SAFETY: the slot is inside the memory and at least as large as `T`.
            unsafe { copy_in_apart(&self.memory, offset, value.as_bytes(), wide) };
        } else {
            // SAFETY: as above, and the slot is in one piece.
            unsafe { copy_in(self.memory.at(offset), value.as_bytes(), wide) };
        }
    }
}

/// Whether so many bytes at an offset do not lie in one page.
const fn straddles(offset: usize, len: usize) -> bool {
    offset % PAGE_SIZE + len > PAGE_SIZE
}

/// So many bytes at an offset, cut where pages end: how far into them each piece begins, and its length.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let to_page_end = PAGE_SIZE - (offset + done) % PAGE_SIZE;
        let piece = (done, to_page_end.min(len - done));
        done += piece.1;
        (piece.1 != 0).then_some(piece)
    })
}

/// Copies `len` bytes out of shared memory, each word read once: 64-bit words where `wide`, else 32-bit ones.
///
/// # Safety
///
/// `from` is valid for volatile reads of `len` bytes, `to` for writes. `from` and `len` are multiples of 8 where `wide`, else of 4.
unsafe fn copy_out(from: NonNull<u8>, to: NonNull<u8>, len: usize, wide: bool) {
    if wide {
        let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
        for word in 0..len / 8 {
            // SAFETY: the caller vouches for both. The target may be aligned to less than a word, hence the unaligned write.
            unsafe { to.add(word).write_unaligned(from.add(word).read_volatile()) };
        }
    } else {
        let (from, to) = (from.cast::<u32>(), to.cast::<u32>());
        for word in 0..len / 4 {
            // SAFETY: as above, by 32-bit words.
            unsafe { to.add(word).write_unaligned(from.add(word).read_volatile()) };
        }
    }
}

/// Copies bytes into shared memory by words, 64-bit ones where `wide`, else 32-bit ones.
///
/// # Safety
///
/// `to` is valid for volatile writes of `bytes.len()` bytes. `to` and the length are multiples of 8 where `wide`, else of 4.
unsafe fn copy_in(to: NonNull<u8>, bytes: &[u8], wide: bool) {
    if wide {
        for (word, chunk) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let value = u64::from_ne_bytes(*chunk);
            // SAFETY: the caller vouches for the target and its alignment.
            unsafe { to.cast::<u64>().add(word).write_volatile(value) };
        }
    } else {
        for (word, chunk) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let value = u32::from_ne_bytes(*chunk);
            // SAFETY: as above.
            unsafe { to.cast::<u32>().add(word).write_volatile(value) };
        }
    }
}

/// [`copy_out`] where the bytes do not lie in one page. Out of line: few slots do that, and the others' copy stays small.
///
/// # Safety
///
/// `len` bytes at `offset` are inside the memory; `to` is valid for writes of as many. Both are multiples of 8 where `wide`, else of 4.
#[cold]
#[inline(never)]
unsafe fn copy_out_apart<M: RingMemory>(
    memory: &M,
    offset: usize,
    to: NonNull<u8>,
    len: usize,
    wide: bool,
) {
    for (done, len) in pieces(offset, len) {
        // SAFETY: each piece is inside the memory and in one page. A page's size is a multiple of 8, so where pieces begin and how long they
        // are is a multiple of what the caller promises of the whole.
        unsafe { copy_out(memory.at(offset + done), to.add(done), len, wide) };
    }
}

/// [`copy_in`] where the bytes' place does not lie in one page.
///
/// # Safety
///
/// As many bytes at `offset` are inside the memory. Both are multiples of 8 where `wide`, else of 4.
#[cold]
#[inline(never)]
unsafe fn copy_in_apart<M: RingMemory>(memory: &M, offset: usize, mut bytes: &[u8], wide: bool) {
    for (done, len) in pieces(offset, bytes.len()) {
        let (piece, rest) = bytes.split_at(len);
        // SAFETY: as in `copy_out_apart`.
        unsafe { copy_in(memory.at(offset + done), piece, wide) };
        bytes = rest;
    }
}
