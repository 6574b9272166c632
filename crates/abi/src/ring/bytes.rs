//! A ring of bytes with a producer and a consumer index: the console's and xenstore's shape.

// UNSAFETY: bytes and indices are reached through raw pointers into memory that another party writes.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};

use super::RingBroken;
use crate::SharedMemory;

/// One direction of a byte ring: where its bytes and its two indices lie in a shared page.
///
/// Indices run freely and are masked on use; `size` is a power of two. Each side trusts only its own index's meaning: the
/// distance of the two is checked at every call, so a peer's lie ends in [`RingBroken`], never in a wrong access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRing {
    data: usize,
    size: u32,
    cons: usize,
    prod: usize,
}

impl ByteRing {
    /// A ring of `size` bytes at offset `data`, with its indices at the offsets `cons` and `prod`.
    ///
    /// # Panics
    ///
    /// (At compile time, where used in a constant:) if `size` is no power of two or an index is not aligned.
    #[must_use]
    pub const fn new(data: usize, size: u32, cons: usize, prod: usize) -> Self {
        assert!(size.is_power_of_two() && cons.is_multiple_of(4) && prod.is_multiple_of(4));
        Self {
            data,
            size,
            cons,
            prod,
        }
    }

    /// The ring's capacity in bytes.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    fn fits<M: SharedMemory>(&self, memory: &M) -> Result<(), RingBroken> {
        let end = memory.len();
        if self.data + self.size as usize <= end && self.cons + 4 <= end && self.prod + 4 <= end {
            Ok(())
        } else {
            Err(RingBroken { prod: 0, cons: 0 })
        }
    }

    /// The atomic at a byte offset. The caller has called `fits`.
    fn index<M: SharedMemory>(memory: &M, offset: usize) -> &AtomicU32 {
        // SAFETY: `fits` showed that the offset is inside; `new` that it is aligned; the memory outlives the borrow.
        unsafe { AtomicU32::from_ptr(memory.as_ptr().add(offset).cast().as_ptr()) }
    }

    /// Bytes waiting to be read.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where the indices are further apart than the ring is long.
    pub fn readable<M: SharedMemory>(&self, memory: &M) -> Result<u32, RingBroken> {
        self.fits(memory)?;
        // Relaxed for the own index; Acquire pairs with the producer's releasing store in `write`.
        let cons = Self::index(memory, self.cons).load(Ordering::Relaxed);
        let prod = Self::index(memory, self.prod).load(Ordering::Acquire);
        self.distance(prod, cons)
    }

    /// Room for bytes to be written.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] as for [`readable`](Self::readable).
    pub fn writable<M: SharedMemory>(&self, memory: &M) -> Result<u32, RingBroken> {
        self.fits(memory)?;
        let prod = Self::index(memory, self.prod).load(Ordering::Relaxed);
        // Acquire pairs with the consumer's releasing store in `read`: its reads are over before we overwrite.
        let cons = Self::index(memory, self.cons).load(Ordering::Acquire);
        Ok(self.size - self.distance(prod, cons)?)
    }

    fn distance(&self, prod: u32, cons: u32) -> Result<u32, RingBroken> {
        let distance = prod.wrapping_sub(cons);
        if distance > self.size {
            Err(RingBroken { prod, cons })
        } else {
            Ok(distance)
        }
    }

    /// Copies up to `buf.len()` waiting bytes out and consumes them; returns how many.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] as for [`readable`](Self::readable); nothing is consumed then.
    pub fn read<M: SharedMemory>(&self, memory: &M, buf: &mut [u8]) -> Result<usize, RingBroken> {
        let waiting = self.readable(memory)? as usize;
        let cons = Self::index(memory, self.cons);
        let start = cons.load(Ordering::Relaxed);
        let mut taken = 0_u32;
        for byte in buf.iter_mut().take(waiting) {
            let at = self.data + (start.wrapping_add(taken) & (self.size - 1)) as usize;
            // SAFETY: the masked offset lies in the data area, which `fits` (in `readable`) showed to be inside the memory.
            *byte = unsafe { memory.as_ptr().add(at).read_volatile() };
            taken = taken.wrapping_add(1);
        }
        // Release pairs with the producer's acquiring load in `writable`.
        cons.store(start.wrapping_add(taken), Ordering::Release);
        Ok(taken as usize)
    }

    /// Writes as much of `buf` as there is room for; returns how many bytes.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] as for [`readable`](Self::readable); nothing is written then.
    pub fn write<M: SharedMemory>(&self, memory: &M, buf: &[u8]) -> Result<usize, RingBroken> {
        let room = self.writable(memory)? as usize;
        let prod = Self::index(memory, self.prod);
        let start = prod.load(Ordering::Relaxed);
        let mut written = 0_u32;
        for byte in buf.iter().take(room) {
            let at = self.data + (start.wrapping_add(written) & (self.size - 1)) as usize;
            // SAFETY: as in `read`.
            unsafe { memory.as_ptr().add(at).write_volatile(*byte) };
            written = written.wrapping_add(1);
        }
        // Release pairs with the consumer's acquiring load in `readable`: it sees the bytes.
        prod.store(start.wrapping_add(written), Ordering::Release);
        Ok(written as usize)
    }
}
