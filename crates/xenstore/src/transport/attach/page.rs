//! One page of a VMM's memory, mapped.

// UNSAFETY: a page of a file is mapped, and handed out as memory that others change.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use cantle_abi::{PAGE_SIZE, SharedMemory};
use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// Why a page is not mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// The offset is not a multiple of 4096, or the page is not inside the memory.
    #[error("no page at offset {0:#x} of the memory")]
    Place(u64),
    /// The memory could be shortened under us.
    #[error("the memory is no memory file that is sealed against shrinking")]
    Unsealed,
    /// The system refused.
    #[error("the page cannot be mapped")]
    System(#[source] io::Error),
}

/// A mapping of one page that its owner changes at any time.
#[derive(Debug)]
pub struct RingPage(NonNull<u8>);

impl RingPage {
    /// Maps the page of `memory` that begins at `offset` bytes.
    ///
    /// # Errors
    ///
    /// [`PageError`].
    pub fn map(memory: impl AsFd, offset: u64) -> Result<Self, PageError> {
        let memory = memory.as_fd();
        let seals = rustix::fs::fcntl_get_seals(memory).map_err(|_| PageError::Unsealed)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(PageError::Unsealed);
        }
        // Looked at after the seal: from there on it grows at most.
        let size = rustix::fs::fstat(memory)
            .map_err(|errno| PageError::System(errno.into()))?
            .st_size;
        let end = offset.checked_add(PAGE_SIZE as u64);
        let inside = end.is_some_and(|end| u64::try_from(size).is_ok_and(|size| end <= size));
        if !inside || !offset.is_multiple_of(PAGE_SIZE as u64) {
            return Err(PageError::Place(offset));
        }
        // SAFETY: the kernel chooses an address that is free; nothing of ours is replaced.
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE_SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                memory,
                offset,
            )
        };
        let address = mapped.map_err(|errno| PageError::System(errno.into()))?;
        NonNull::new(address.cast())
            .map(Self)
            .ok_or(PageError::Place(offset))
    }
}

// SAFETY: the mapping is readable and writable, page-aligned, and lives until the value is dropped; the file behind it cannot be
// shortened, so the page stays.
unsafe impl SharedMemory for RingPage {
    fn as_ptr(&self) -> NonNull<u8> {
        self.0
    }
    fn len(&self) -> usize {
        PAGE_SIZE
    }
}

// SAFETY: a mapping belongs to the process; who reaches it does so by atomic or volatile accesses only (`SharedMemory`).
unsafe impl Send for RingPage {}
// SAFETY: as above.
unsafe impl Sync for RingPage {}

impl Drop for RingPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nobody has the address any more.
        let unmapped = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE_SIZE) };
        debug_assert!(
            unmapped.is_ok(),
            "a whole mapping of our own can be unmapped"
        );
    }
}
