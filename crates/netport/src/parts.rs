//! Pieces of memory that a packet lies in: a process's own buffers and granted pages alike.

// UNSAFETY: a granted page may change while it is used, so no Rust reference to it may exist; these are addresses with
// a lifetime, as `std::io::IoSlice` is, and what the kernel and `copy_to` do with them is the whole of their use.
#![expect(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use cantle_abi::{SharedBytes, SharedMemory};

/// Bytes to be read, which another party may change meanwhile. Laid out as an `iovec`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Part<'a> {
    iov: libc::iovec,
    memory: PhantomData<&'a [u8]>,
}

/// Bytes to be written, which another party may read and change meanwhile. Laid out as an `iovec`.
#[repr(transparent)]
pub struct PartMut<'a> {
    iov: libc::iovec,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: as for `&[u8]`, whose place it takes; the memory behind `SharedMemory` is made to be used by several parties.
unsafe impl Send for Part<'_> {}
// SAFETY: as above.
unsafe impl Sync for Part<'_> {}
// SAFETY: as for `&mut [u8]`.
unsafe impl Send for PartMut<'_> {}
// SAFETY: nothing can be done through a shared reference.
unsafe impl Sync for PartMut<'_> {}

fn iovec(bytes: SharedBytes<'_>) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

impl<'a> From<SharedBytes<'a>> for Part<'a> {
    fn from(bytes: SharedBytes<'a>) -> Self {
        Self {
            iov: iovec(bytes),
            memory: PhantomData,
        }
    }
}

impl<'a> From<&'a [u8]> for Part<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        SharedBytes::from(bytes).into()
    }
}

impl<'a> Part<'a> {
    /// A range of shared memory; `None` where it is not wholly inside.
    #[must_use]
    pub fn shared<M: SharedMemory + ?Sized>(
        memory: &'a M,
        offset: usize,
        len: usize,
    ) -> Option<Self> {
        SharedBytes::of(memory, offset, len).map(Self::from)
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iov.iov_len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies as many bytes as both have; returns how many. Where the other party writes meanwhile, any mixture may be seen.
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        let len = self.len().min(to.len());
        // SAFETY: both sides are valid for `len` bytes: by the constructors and by the slice; they do not overlap, since
        // `to` is borrowed alone and shared memory is never behind a reference.
        unsafe { std::ptr::copy_nonoverlapping(self.iov.iov_base.cast(), to.as_mut_ptr(), len) };
        len
    }

    /// Copies several, one after another, as far as there is room; returns how many bytes.
    pub fn copy_all(parts: impl IntoIterator<Item = Self>, to: &mut [u8]) -> usize {
        let mut filled = 0;
        for part in parts {
            let room = to.get_mut(filled..).unwrap_or_default();
            if room.is_empty() {
                break;
            }
            filled += part.copy_to(room);
        }
        filled
    }

    /// The first `len` of its bytes, and the others; all and none where there are not so many.
    #[must_use]
    pub fn split_at(self, len: usize) -> (Self, Self) {
        let len = len.min(self.len());
        let part = |from: usize, to: usize| Self {
            iov: libc::iovec {
                // SAFETY: both are at most the length.
                iov_base: unsafe { self.iov.iov_base.add(from) },
                iov_len: to - from,
            },
            memory: PhantomData,
        };
        (part(0, len), part(len, self.len()))
    }

    /// The same, for whoever copies it to where it is to go.
    #[must_use]
    pub fn bytes(&self) -> SharedBytes<'a> {
        match NonNull::new(self.iov.iov_base.cast()) {
            // SAFETY: by the constructors, so many bytes are readable for as long as the lifetime says.
            Some(first) => unsafe { SharedBytes::from_raw(first, self.iov.iov_len) },
            None => SharedBytes::from(&[][..]),
        }
    }

    /// The `iovec` itself.
    pub(crate) fn iovec(&self) -> libc::iovec {
        self.iov
    }
}

impl<'a> From<&'a mut [u8]> for PartMut<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self {
            iov: libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            },
            memory: PhantomData,
        }
    }
}

impl<'a> PartMut<'a> {
    /// A range of shared memory that is lent read-write; `None` where it is not wholly inside.
    #[must_use]
    pub fn shared<M: SharedMemory + ?Sized>(
        memory: &'a M,
        offset: usize,
        len: usize,
    ) -> Option<Self> {
        Some(Self {
            iov: iovec(SharedBytes::of(memory, offset, len)?),
            memory: PhantomData,
        })
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iov.iov_len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same bytes, to be read.
    #[must_use]
    pub fn as_part(&self) -> Part<'_> {
        Part {
            iov: self.iov,
            memory: PhantomData,
        }
    }

    /// Copies as many bytes as both have; returns how many.
    pub fn copy_from(&mut self, from: &[u8]) -> usize {
        let len = self.len().min(from.len());
        // SAFETY: as in `Part::copy_to`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.iov.iov_base.cast(), len) };
        len
    }

    /// As [`copy_from`](Self::copy_from), from memory that may change meanwhile, and may be the same.
    pub fn copy_from_shared(&mut self, from: SharedBytes<'_>) -> usize {
        let len = self.len().min(from.len());
        // SAFETY: both sides are valid for `len` bytes, by their constructors. They may overlap, hence the kind of copy that allows it.
        unsafe { std::ptr::copy(from.as_ptr(), self.iov.iov_base.cast(), len) };
        len
    }

    /// The `iovec` itself.
    pub(crate) fn iovec(&self) -> libc::iovec {
        self.iov
    }
}

impl fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({} bytes)", self.len())
    }
}

impl fmt::Debug for PartMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartMut({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cantle_abi::PAGE_SIZE;
    use cantle_abi::ring::HeapPages;

    #[test]
    fn a_range_past_the_end_is_refused() {
        let page = HeapPages::new(1);
        assert!(Part::shared(&page, PAGE_SIZE, 0).is_some());
        assert!(Part::shared(&page, PAGE_SIZE, 1).is_none());
        assert!(PartMut::shared(&page, 1, usize::MAX).is_none());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let page = HeapPages::new(1);
        let mut into = PartMut::shared(&page, 100, 5).unwrap();
        assert_eq!(into.copy_from(b"hello, world"), 5);
        let mut back = [0; 8];
        assert_eq!(Part::shared(&page, 99, 7).unwrap().copy_to(&mut back), 7);
        assert_eq!(&back, b"\0hello\0\0");
    }
}
