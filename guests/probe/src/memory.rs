//! Memory that the host or another domain also sees, and the pool of pages that are lent to them.

// UNSAFETY: the machine's memory is reached by address; everything else goes through the checked accesses here.
#![expect(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::size_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use cantle_abi::{Gfn, PAGE_SIZE, SharedMemory};
use zerocopy::FromBytes;

use crate::fail;
use crate::report::Outcome;

/// Pages in the pool.
const POOL_PAGES: usize = 448;

#[repr(C, align(4096))]
struct Pool(UnsafeCell<[u8; POOL_PAGES * PAGE_SIZE]>);

// SAFETY: each page is handed out once, as a `Window`, which makes volatile and atomic accesses only.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([0; POOL_PAGES * PAGE_SIZE]));
static POOL_NEXT: AtomicUsize = AtomicUsize::new(0);

/// A zeroed page from the pool, for good.
pub(crate) fn page() -> Outcome<Window> {
    pages(1)
}

/// Several zeroed pages in a row from the pool, for good.
pub(crate) fn pages(count: usize) -> Outcome<Window> {
    let first = POOL_NEXT.fetch_add(count, Ordering::Relaxed);
    if first + count > POOL_PAGES {
        fail!("the probe's page pool is used up");
    }
    Ok(Window {
        base: POOL.0.get() as usize + first * PAGE_SIZE,
        len: count * PAGE_SIZE,
    })
}

/// A range of memory that others may change: identity-mapped, and no object of Rust's lies in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    base: usize,
    len: usize,
}

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

impl Window {
    /// Memory outside of the program's own image, below 4 GiB; `None` for any other.
    pub(crate) fn outside_image(addr: u64, len: usize) -> Option<Self> {
        let base = usize::try_from(addr).ok()?;
        let end = base.checked_add(len)?;
        let image = (
            &raw const __image_start as usize,
            &raw const __image_end as usize,
        );
        let apart = end <= image.0 || base >= image.1;
        (base != 0 && end <= 1 << 32 && apart).then_some(Self { base, len })
    }

    pub(crate) fn addr(&self) -> u64 {
        self.base as u64
    }

    pub(crate) fn gfn(&self) -> Gfn {
        Gfn::of_addr(self.addr())
    }

    /// A part of it.
    pub(crate) fn part(&self, offset: usize, len: usize) -> Option<Self> {
        (offset.checked_add(len)? <= self.len).then_some(Self {
            base: self.base + offset,
            len,
        })
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "{offset:#x}+{len:#x} is outside of a window of {:#x}",
            self.len
        );
        core::ptr::with_exposed_provenance_mut(self.base + offset)
    }

    /// Copies a value out.
    pub(crate) fn read<T: FromBytes>(&self, offset: usize) -> T {
        let from = self.at(offset, size_of::<T>());
        let mut value = T::new_zeroed();
        let to = (&raw mut value).cast::<u8>();
        // Whole words first: an emulated vCPU is slow.
        let words = if from.addr().is_multiple_of(8) {
            size_of::<T>() / 8
        } else {
            0
        };
        for word in 0..words {
            let from = from.cast::<u64>();
            // SAFETY: `at` checked the source, which is aligned; the target may not be.
            unsafe {
                to.cast::<u64>()
                    .add(word)
                    .write_unaligned(from.add(word).read_volatile())
            };
        }
        for byte in words * 8..size_of::<T>() {
            // SAFETY: `at` checked the source; the target is a whole `T`, for which any bytes are valid.
            unsafe { to.add(byte).write(from.add(byte).read_volatile()) };
        }
        value
    }

    /// Copies bytes out.
    pub(crate) fn read_bytes(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        for (i, byte) in to.iter_mut().enumerate() {
            // SAFETY: `at` checked the range.
            *byte = unsafe { from.add(i).read_volatile() };
        }
    }

    /// Copies bytes in.
    pub(crate) fn write_bytes(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        for (i, byte) in from.iter().enumerate() {
            // SAFETY: `at` checked the range.
            unsafe { to.add(i).write_volatile(*byte) };
        }
    }

    /// Sets all 64-bit words of a range from their index.
    pub(crate) fn fill(&self, offset: usize, len: usize, word: impl Fn(u64) -> u64) {
        for i in 0..len / 8 {
            self.word64(offset + i * 8)
                .store(word(i as u64), Ordering::Relaxed);
        }
    }

    pub(crate) fn byte(&self, offset: usize) -> &'static AtomicU8 {
        // SAFETY: `at` checked the range; the memory stays for good, and is accessed atomically or volatilely only.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1)) }
    }

    pub(crate) fn word32(&self, offset: usize) -> &'static AtomicU32 {
        assert!((self.base + offset).is_multiple_of(4));
        // SAFETY: aligned; otherwise as above.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    pub(crate) fn word64(&self, offset: usize) -> &'static AtomicU64 {
        assert!((self.base + offset).is_multiple_of(8));
        // SAFETY: aligned; otherwise as above.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }
}

// SAFETY: the range is mapped for good, outside of all Rust objects (by the constructors); its users check alignment:
// rings are made over whole pages only.
unsafe impl SharedMemory for Window {
    fn as_ptr(&self) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(self.base))
            .unwrap_or(NonNull::dangling())
    }
    fn len(&self) -> usize {
        self.len
    }
}

/// A range of the pool that was handed out before, by its address.
pub(crate) fn pool_window(addr: u64, len: usize) -> Option<Window> {
    let base = usize::try_from(addr).ok()?;
    let start = POOL.0.get() as usize;
    let end = start + POOL_NEXT.load(Ordering::Relaxed).min(POOL_PAGES) * PAGE_SIZE;
    (base >= start && base.checked_add(len)? <= end).then_some(Window { base, len })
}
