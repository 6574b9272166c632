//! Pages through which copies go between a broker and its back end.

// UNSAFETY: memory that two processes share.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use cantle_abi::{PAGE_SIZE, SharedMemory};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::protocol::MAX_ITEMS;

/// As long as the pages of the largest batch.
pub(super) const LEN: usize = MAX_ITEMS * PAGE_SIZE;

/// The bounce buffer: a page for each item of a batch.
#[derive(Debug)]
pub(super) struct Bounce(NonNull<u8>);

// SAFETY: shared memory, reached by raw pointers only.
unsafe impl Send for Bounce {}
// SAFETY: as above.
unsafe impl Sync for Bounce {}

impl Bounce {
    /// New, with the file that the other end maps. Its length is sealed: nobody can take the memory away.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = memfd_create("grant-bounce", flags)?;
        ftruncate(&fd, LEN as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(&fd)?, fd))
    }

    /// The other end of it.
    pub(super) fn map(fd: impl AsFd) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let at = unsafe { mmap(std::ptr::null_mut(), LEN, prot, MapFlags::SHARED, fd, 0) }?;
        NonNull::new(at.cast())
            .map(Self)
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// A page of it; `None` beyond its end.
    pub(super) fn page(&self, slot: usize) -> Option<NonNull<u8>> {
        // SAFETY: within the mapping.
        (slot < MAX_ITEMS).then(|| unsafe { self.0.add(slot * PAGE_SIZE) })
    }
}

// SAFETY: mapped until dropped, readable and writable.
unsafe impl SharedMemory for Bounce {
    fn as_ptr(&self) -> NonNull<u8> {
        self.0
    }
    fn len(&self) -> usize {
        LEN
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: this mapping, which nothing points into any more. It cannot fail.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), LEN) };
    }
}
