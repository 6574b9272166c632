//! A guest's address space on the heap.

// UNSAFETY: moves pages from and to the guest's memory.
#![expect(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use cantle_abi::{Gfn, PAGE_SIZE, SharedMemory};

use super::HeapFrames;
use crate::{GrantStatus, GuestFrames, GuestSpace, Mapping, Place, locked};

/// What a [`HeapGuest`](super::HeapGuest) has mapped of others, by place: at frames beyond its memory. Frames that it gives away
/// are gone from its memory.
pub struct HeapSpace {
    frames: Arc<HeapFrames>,
    placed: Mutex<BTreeMap<u64, Arc<Mapping>>>,
    is_paravirtual: AtomicBool,
    refuses: AtomicBool,
}

impl HeapSpace {
    pub(super) fn new(frames: Arc<HeapFrames>) -> Self {
        Self {
            frames,
            placed: Mutex::default(),
            is_paravirtual: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
        }
    }

    /// From here on the guest is one with Xen's page tables: any place will do.
    pub fn paravirtual(&self) {
        self.is_paravirtual.store(true, Relaxed);
    }

    /// From here on (or no longer) nothing can be placed, and nothing taken away.
    pub fn refuse(&self, refuse: bool) {
        self.refuses.store(refuse, Relaxed);
    }

    /// How many pages of others are placed.
    #[must_use]
    pub fn placed(&self) -> usize {
        locked(&self.placed).len()
    }

    /// Reads from a page that is placed at an address, as the guest would.
    #[must_use]
    pub fn read(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let placed = locked(&self.placed);
        let page = placed.get(&(address >> 12))?;
        let offset = usize::try_from(address & 0xfff).ok()?;
        let bytes = (offset..(offset + len).min(PAGE_SIZE)).map(|at| {
            // SAFETY: within the page, which the mapping keeps.
            unsafe { page.as_ptr().as_ptr().add(at).read_volatile() }
        });
        Some(bytes.collect())
    }

    fn key(at: Place) -> u64 {
        match at {
            Place::Frame(gfn) => gfn.0,
            Place::Virtual(address) | Place::Entry(address) => address >> 12,
        }
    }

    fn check(&self) -> Result<(), GrantStatus> {
        if self.refuses.load(Relaxed) {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        Ok(())
    }
}

impl GuestSpace for HeapSpace {
    fn is_translated(&self) -> bool {
        !self.is_paravirtual.load(Relaxed)
    }

    fn place(&self, at: Place, page: &Arc<Mapping>) -> Result<(), GrantStatus> {
        self.check()?;
        let mut placed = locked(&self.placed);
        let key = Self::key(at);
        let is_ram = self.is_translated() && self.frames.frame(Gfn(key)).is_some();
        if is_ram || placed.contains_key(&key) {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        placed.insert(key, page.clone());
        Ok(())
    }

    fn remove(&self, at: Place) -> Result<(), GrantStatus> {
        self.check()?;
        let removed = locked(&self.placed).remove(&Self::key(at));
        removed.map(drop).ok_or(GrantStatus::GENERAL_ERROR)
    }

    fn replace(&self, at: Place, new_addr: u64) -> Result<(), GrantStatus> {
        self.check()?;
        let mut placed = locked(&self.placed);
        let new = placed
            .remove(&(new_addr >> 12))
            .ok_or(GrantStatus::GENERAL_ERROR)?;
        placed.insert(Self::key(at), new);
        Ok(())
    }

    /// The page's address in this process.
    fn device_address(&self, page: &Mapping) -> u64 {
        if self.is_translated() {
            0
        } else {
            page.as_ptr().as_ptr() as u64
        }
    }

    fn surrender(&self, gfn: Gfn, contents: &mut [u8; PAGE_SIZE]) -> Result<(), GrantStatus> {
        let page = self.frames.frame(gfn).ok_or(GrantStatus::BAD_PAGE)?;
        if !self.frames.set_hole(gfn, true) {
            return Err(GrantStatus::BAD_PAGE);
        }
        // SAFETY: one page of the guest, which `frames` keeps, hole or not.
        unsafe {
            page.as_ptr()
                .copy_to_nonoverlapping(contents.as_mut_ptr(), PAGE_SIZE)
        };
        Ok(())
    }

    fn accept(&self, gfn: Gfn, contents: &[u8; PAGE_SIZE]) -> Result<(), GrantStatus> {
        self.check()?;
        if !self.frames.set_hole(gfn, false) {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let page = self.frames.frame(gfn).ok_or(GrantStatus::GENERAL_ERROR)?;
        // SAFETY: as above.
        unsafe {
            page.as_ptr()
                .copy_from_nonoverlapping(contents.as_ptr(), PAGE_SIZE)
        };
        Ok(())
    }
}

impl fmt::Debug for HeapSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapSpace")
            .field("placed", &self.placed())
            .finish_non_exhaustive()
    }
}
