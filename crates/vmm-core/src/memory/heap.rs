//! The host's own pages that the guest sees: the rings of the special region, shared info, the grant table.

// UNSAFETY: gives out addresses of the heap's mapping.
#![expect(unsafe_code)]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use cantle_abi::{Gfn, PAGE_SIZE, SharedMemory};
use cantle_pv_monitor::interface::Frames;
use vm_memory::FileOffset;
use vm_memory::mmap::MmapRegion;

use super::{GuestRam, memory_file};
use crate::boot::layout;
use crate::boot::pv::FIRST_SPECIAL;
use crate::error::SetupError;

/// The heap page of shared info; before it are those of the special region, which have fixed places.
const SHARED_INFO: usize = layout::SPECIAL_PAGES;
/// The first heap page of the grant table; behind its frames are those of status.
const GRANT_FRAMES: usize = SHARED_INFO + 1;

const _: () = {
    assert!(HeapPage::STORE.0 as u64 == layout::STORE_GFN.0 - layout::SPECIAL_GFN.0);
    assert!(HeapPage::CONSOLE.0 as u64 == layout::CONSOLE_GFN.0 - layout::SPECIAL_GFN.0);
};

/// A page of the heap of the guest that it was got from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HeapPage(usize);

impl HeapPage {
    /// The shared info page.
    pub(crate) const SHARED_INFO: Self = Self(SHARED_INFO);

    /// Xenstore's ring.
    pub(crate) const STORE: Self = Self(4);
    /// The console's ring.
    pub(crate) const CONSOLE: Self = Self(7);

    pub(super) const fn index(self) -> usize {
        self.0
    }

    /// Its frame in the memory of a PV guest.
    pub(crate) const fn pv_frame(self) -> Gfn {
        Gfn(FIRST_SPECIAL + self.0 as u64)
    }

    pub(super) const fn offset(self) -> u64 {
        (self.0 * PAGE_SIZE) as u64
    }
}

/// The pages: a memory file, mapped once. None takes memory before it is written.
#[derive(Debug)]
pub(super) struct Heap {
    file: File,
    map: MmapRegion<()>,
    grant_frames: usize,
    status_frames: usize,
}

impl Heap {
    /// With as many frames, and status frames, of the grant table.
    pub(super) fn new((grant_frames, status_frames): (u32, u32)) -> Result<Self, SetupError> {
        let (grant_frames, status_frames) = (grant_frames as usize, status_frames as usize);
        let bytes = (GRANT_FRAMES + grant_frames + status_frames) * PAGE_SIZE;
        let file = memory_file("guest-heap", bytes as u64)?;
        let same = file.try_clone().map_err(SetupError::memory)?;
        let map = MmapRegion::from_file(FileOffset::new(same, 0), bytes);
        Ok(Self {
            file,
            map: map.map_err(|e| SetupError::memory(std::io::Error::other(e)))?,
            grant_frames,
            status_frames,
        })
    }

    pub(super) fn pages(&self) -> usize {
        GRANT_FRAMES + self.grant_frames + self.status_frames
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn ptr(&self, page: HeapPage) -> NonNull<u8> {
        // SAFETY: heap pages are made by this module alone, each within its heap, so the offset lies in the mapping; a mapping is
        // never at address 0.
        unsafe { NonNull::new_unchecked(self.map.as_ptr().add(page.0 * PAGE_SIZE)) }
    }
}

impl GuestRam {
    /// The shared info page.
    pub(crate) fn shared_info(self: &Arc<Self>) -> HeapSlice {
        self.slice(HeapPage::SHARED_INFO, 1)
    }

    /// A page of a ring ([`HeapPage::STORE`], [`HeapPage::CONSOLE`]).
    pub(crate) fn ring(self: &Arc<Self>, page: HeapPage) -> HeapSlice {
        self.slice(page, 1)
    }

    /// The frames of all of the heap in a PV guest's memory.
    pub(crate) fn pv_special(&self) -> Frames {
        Frames {
            start: FIRST_SPECIAL,
            end: FIRST_SPECIAL + self.heap.pages() as u64,
        }
    }

    /// All frames that the grant table can have, one after the other.
    pub(crate) fn grant_frames(self: &Arc<Self>) -> HeapSlice {
        self.slice(HeapPage(GRANT_FRAMES), self.heap.grant_frames)
    }

    /// All status frames that the grant table can have; `None` where it cannot have any.
    pub(crate) fn status_frames(self: &Arc<Self>) -> Option<HeapSlice> {
        let first = HeapPage(GRANT_FRAMES + self.heap.grant_frames);
        let pages = self.heap.status_frames;
        (pages != 0).then(|| self.slice(first, pages))
    }

    /// A frame of the grant table; `None` where it cannot have so many.
    pub(crate) fn grant_frame(&self, index: u32) -> Option<HeapPage> {
        let index = usize::try_from(index).ok()?;
        (index < self.heap.grant_frames).then(|| HeapPage(GRANT_FRAMES + index))
    }

    /// A status frame of the grant table; `None` where it cannot have so many.
    pub(crate) fn status_frame(&self, index: u32) -> Option<HeapPage> {
        let index = usize::try_from(index).ok()?;
        let first = GRANT_FRAMES + self.heap.grant_frames;
        (index < self.heap.status_frames).then(|| HeapPage(first + index))
    }

    fn slice(self: &Arc<Self>, first: HeapPage, pages: usize) -> HeapSlice {
        HeapSlice {
            ram: self.clone(),
            first,
            pages,
        }
    }
}

/// Pages of the heap, kept mapped.
#[derive(Debug, Clone)]
pub(crate) struct HeapSlice {
    ram: Arc<GuestRam>,
    first: HeapPage,
    pages: usize,
}

// SAFETY: the heap's mapping lives with the Arc and is page-aligned.
unsafe impl SharedMemory for HeapSlice {
    fn as_ptr(&self) -> NonNull<u8> {
        self.ram.heap.ptr(self.first)
    }
    fn len(&self) -> usize {
        self.pages * PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::config::GrantConfig;
    use crate::test_utils::Harness;

    #[test]
    fn kvm_the_largest_table_takes_memory_as_it_is_used() {
        let config = GrantConfig {
            max_grant_version: 2,
            max_grant_frames: 4096,
            max_maptrack_frames: 4096,
        };
        let Some(h) = Harness::with_grants(&config) else {
            return;
        };
        let ram = &h.domain().ram;
        let pages = || ram.heap.file.metadata().unwrap().blocks() * 512 / PAGE_SIZE as u64;
        assert_eq!(ram.grant_frames().len(), 4096 * PAGE_SIZE);
        assert_eq!(ram.status_frames().unwrap().len(), 512 * PAGE_SIZE);
        // Shared info, and what the special region has.
        assert!(pages() <= 4, "{} pages", pages());
        let grants = &h.domain().grants;
        grants.grow(4096).unwrap();
        assert!(pages() <= 4, "{} pages", pages());
        for gref in [8, 4096 * 512 - 1] {
            let gref = cantle_abi::GrantRef(gref);
            grants.seed(gref, cantle_abi::DomId::DOM0, Gfn(1)).unwrap();
        }
        assert!(pages() <= 6, "{} pages", pages());
        // The first and the last page of the heap, and none beyond.
        assert_eq!(ram.grant_frame(0), Some(HeapPage(GRANT_FRAMES)));
        let last = ram.status_frame(511).unwrap();
        let bytes = ram.heap.file.metadata().unwrap().len();
        assert_eq!(last.offset() + PAGE_SIZE as u64, bytes);
        assert_eq!(ram.grant_frame(4096), None);
        assert_eq!(ram.status_frame(512), None);
        assert_eq!(ram.status_frame(u32::MAX), None);
    }

    #[test]
    fn kvm_version_one_has_no_status_frames() {
        let Some(h) = Harness::new() else { return };
        let ram = &h.domain().ram;
        assert!(ram.status_frames().is_none());
        assert_eq!(ram.status_frame(0), None);
        assert_eq!(ram.grant_frame(crate::test_utils::GRANT_FRAMES), None);
    }
}
