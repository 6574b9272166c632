//! Pages of memory that a check has for itself.

// UNSAFETY: mmap and the like, and the memory that they map.
#![expect(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::ops::Range;

use libc::c_int;

use crate::sys::{Outcome, PAGE, checked};

/// Pages of memory.
#[derive(Debug)]
pub(crate) struct Region {
    address: usize,
    pages: usize,
}

pub(crate) const NONE: c_int = libc::PROT_NONE;
pub(crate) const READ: c_int = libc::PROT_READ;
pub(crate) const WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;

impl Region {
    /// Of this process's own.
    pub(crate) fn private(pages: usize, protection: c_int) -> Outcome<Self> {
        Self::mapped(
            pages,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        )
    }

    /// Shared with children.
    pub(crate) fn shared(pages: usize) -> Outcome<Self> {
        Self::mapped(pages, WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)
    }

    /// Of a file.
    pub(crate) fn mapped(
        pages: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
    ) -> Outcome<Self> {
        // SAFETY: at an address that the kernel chooses.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                pages * PAGE,
                protection,
                flags,
                file,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(format!("mmap: {}", io::Error::last_os_error()));
        }
        Ok(Self {
            address: address as usize,
            pages,
        })
    }

    /// Where a page is.
    pub(crate) fn at(&self, page: usize) -> usize {
        assert!(page <= self.pages, "a page of the region");
        self.address + page * PAGE
    }

    fn place(&self, page: usize) -> *mut c_void {
        self.at(page) as *mut c_void
    }

    pub(crate) fn protect(&self, pages: Range<usize>, protection: c_int) -> Outcome {
        let _ = self.at(pages.end);
        // SAFETY: pages of this region.
        let done =
            unsafe { libc::mprotect(self.place(pages.start), pages.len() * PAGE, protection) };
        checked("mprotect", done).map(drop)
    }

    /// Has zeros there.
    pub(crate) fn renew(&self, pages: Range<usize>, protection: c_int) -> Outcome {
        let _ = self.at(pages.end);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let (place, len) = (self.place(pages.start), pages.len() * PAGE);
        // SAFETY: in the place of pages of this region.
        let got = unsafe { libc::mmap(place, len, protection, flags, -1, 0) };
        if got != place {
            return Err(format!("mmap: {}", io::Error::last_os_error()));
        }
        Ok(())
    }

    /// Moves pages to another place in the region, and has zeros where they were.
    pub(crate) fn shift(&self, pages: Range<usize>, to: usize, protection: c_int) -> Outcome {
        let _ = self.at(to + pages.len());
        let len = pages.len() * PAGE;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both places are in this region.
        let got = unsafe { libc::mremap(self.place(pages.start), len, len, flags, self.place(to)) };
        if got != self.place(to) {
            return Err(format!("mremap: {}", io::Error::last_os_error()));
        }
        self.renew(pages, protection)
    }

    pub(crate) fn advise(&self, pages: Range<usize>, advice: c_int) -> Outcome {
        let _ = self.at(pages.end);
        // SAFETY: pages of this region.
        let done = unsafe { libc::madvise(self.place(pages.start), pages.len() * PAGE, advice) };
        checked("madvise", done).map(drop)
    }

    /// A word of a page, which has to be readable.
    pub(crate) fn read(&self, page: usize, word: usize) -> u64 {
        let place = self.at(page) + (word % (PAGE / 8)) * 8;
        // SAFETY: in this region; where it is not readable, the process ends.
        unsafe { (place as *const u64).read_volatile() }
    }

    pub(crate) fn write(&self, page: usize, word: usize, value: u64) {
        let place = self.at(page) + (word % (PAGE / 8)) * 8;
        // SAFETY: in this region; where it is not writable, the process ends.
        unsafe { (place as *mut u64).write_volatile(value) };
    }

    /// Bytes into the first pages.
    pub(crate) fn fill(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.pages * PAGE, "they have room");
        // SAFETY: in this region, to which nothing refers.
        unsafe { (self.address as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region's own pages.
        unsafe { libc::munmap(self.place(0), self.pages * PAGE) };
    }
}
