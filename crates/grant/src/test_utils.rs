//! A guest on the heap: memory, and a grant table that it writes as a front end's kernel does.

// UNSAFETY: the guest's own accesses to its memory.
#![expect(unsafe_code)]

pub mod calls;
mod space;

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8};

use cantle_abi::grant_table::{
    GNTTAB_NR_RESERVED_ENTRIES, GTF_accept_transfer, GTF_permit_access, GTF_readonly, GTF_sub_page,
};
use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, Gfn, GrantRef, PAGE_SIZE, SharedMemory};

use crate::entries::{Entries, Entry, Part, Version};
use crate::{GrantTable, GuestFrames, TableConfig, TablePages, Tables};

pub use space::HeapSpace;

/// A guest's memory on the heap: frames from 0.
#[derive(Debug)]
pub struct HeapFrames {
    pages: HeapPages,
    /// Frames that the guest does not have at present.
    holes: Box<[AtomicBool]>,
}

impl HeapFrames {
    /// Zeroed memory of `frames` frames.
    #[must_use]
    pub fn new(frames: usize) -> Self {
        Self {
            pages: HeapPages::new(frames),
            holes: (0..frames).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Takes a frame away, or gives it back: false where that is so already, or there is none.
    fn set_hole(&self, gfn: Gfn, is_hole: bool) -> bool {
        let hole = usize::try_from(gfn.0).ok().and_then(|n| self.holes.get(n));
        hole.is_some_and(|hole| hole.swap(is_hole, SeqCst) != is_hole)
    }
}

// SAFETY: the frame is within memory that lives as long as `self`.
unsafe impl GuestFrames for HeapFrames {
    fn frame(&self, gfn: Gfn) -> Option<NonNull<u8>> {
        let frame = usize::try_from(gfn.0).ok()?;
        if self.holes.get(frame)?.load(Relaxed) {
            return None;
        }
        // SAFETY: there are as many pages as there may be holes.
        Some(unsafe { self.pages.as_ptr().add(frame * PAGE_SIZE) })
    }
}

/// Consecutive frames of a [`HeapGuest`], as the guest itself sees them: what its ring lives in. Keeps the memory.
#[derive(Clone, Debug)]
pub struct GuestPages {
    _frames: Arc<HeapFrames>,
    first: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory that `_frames` keeps, reached by volatile and atomic accesses only.
unsafe impl Send for GuestPages {}
// SAFETY: as above.
unsafe impl Sync for GuestPages {}

// SAFETY: `_frames` keeps the memory, which never moves; `HeapGuest::pages` checked the range.
unsafe impl SharedMemory for GuestPages {
    fn as_ptr(&self) -> NonNull<u8> {
        self.first
    }
    fn len(&self) -> usize {
        self.len
    }
}

/// A guest on the heap, with its grant table in the [`Tables`] given; gone from there when dropped.
///
/// Its methods are the guest's side; they panic where a test asks for what it does not have.
pub struct HeapGuest {
    dom: DomId,
    tables: Arc<Tables>,
    table: Arc<GrantTable>,
    frames: Arc<HeapFrames>,
    entries: Entries,
    free: Mutex<Free>,
}

/// What is not handed out yet.
struct Free {
    next_frame: u64,
    frames: Vec<Gfn>,
    next_gref: u32,
    grefs: Vec<GrantRef>,
}

impl HeapGuest {
    /// A guest with `frames` frames of memory and a table of 64 frames (32,768 entries).
    ///
    /// # Panics
    ///
    /// Where `tables` has such a domain already.
    #[must_use]
    pub fn new(tables: &Arc<Tables>, dom: DomId, frames: usize) -> Self {
        let config = TableConfig {
            initial_frames: 64,
            max_frames: 64,
            ..TableConfig::default()
        };
        Self::with_config(tables, dom, frames, config)
    }

    /// A guest with a table of its own size.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new), and where the configuration is wrong.
    #[must_use]
    pub fn with_config(
        tables: &Arc<Tables>,
        dom: DomId,
        frames: usize,
        config: TableConfig,
    ) -> Self {
        let entries = Arc::new(HeapPages::new(config.max_frames as usize));
        let status = match config.status_frames() as usize {
            0 => None,
            n => Some(Arc::new(HeapPages::new(n)) as Arc<dyn SharedMemory + Send + Sync>),
        };
        let frames = Arc::new(HeapFrames::new(frames));
        let pages = TablePages {
            entries: entries.clone(),
            status: status.clone(),
        };
        let table = GrantTable::with_pages(dom, config, pages, frames.clone())
            .expect("the configuration is valid");
        tables
            .insert(table.clone())
            .expect("the domain's number is free");
        Self {
            dom,
            tables: tables.clone(),
            table,
            frames,
            entries: Entries::new(entries, status),
            free: Mutex::new(Free {
                next_frame: 0,
                frames: Vec::new(),
                next_gref: GNTTAB_NR_RESERVED_ENTRIES,
                grefs: Vec::new(),
            }),
        }
    }

    /// The guest's number.
    #[must_use]
    pub fn dom(&self) -> DomId {
        self.dom
    }

    /// The host's side of its table.
    #[must_use]
    pub fn table(&self) -> &Arc<GrantTable> {
        &self.table
    }

    /// Its memory, as the host sees it.
    #[must_use]
    pub fn frames(&self) -> &Arc<HeapFrames> {
        &self.frames
    }

    /// A frame that was not handed out yet, or was freed.
    ///
    /// # Panics
    ///
    /// When the memory is used up.
    #[must_use]
    pub fn alloc_frame(&self) -> Gfn {
        self.free(|free| free.frames.pop())
            .unwrap_or_else(|| self.alloc_frames(1))
    }

    /// `n` consecutive frames: the first of them.
    ///
    /// # Panics
    ///
    /// When the memory is used up.
    #[must_use]
    pub fn alloc_frames(&self, n: usize) -> Gfn {
        self.free(|free| {
            let first = Gfn(free.next_frame);
            free.next_frame += n as u64;
            assert!(
                free.next_frame <= (self.frames.holes.len()) as u64,
                "the guest's memory is used up"
            );
            first
        })
    }

    /// Hands a frame back.
    pub fn free_frame(&self, gfn: Gfn) {
        self.free(|free| free.frames.push(gfn));
    }

    /// `n` frames from `first`, as the guest sees them.
    ///
    /// # Panics
    ///
    /// Where they are not all the guest's.
    #[must_use]
    pub fn pages(&self, first: Gfn, n: usize) -> GuestPages {
        assert!(n > 0, "at least one page");
        let last = self.frames.frame(Gfn(first.0 + n as u64 - 1));
        assert!(last.is_some(), "the guest has these frames");
        GuestPages {
            _frames: self.frames.clone(),
            first: self.address(first),
            len: n * PAGE_SIZE,
        }
    }

    /// One frame, as the guest sees it.
    ///
    /// # Panics
    ///
    /// Where it is not the guest's.
    #[must_use]
    pub fn page(&self, gfn: Gfn) -> GuestPages {
        self.pages(gfn, 1)
    }

    /// Grants a frame by a reference that is free: see [`grant_access`](Self::grant_access).
    ///
    /// # Panics
    ///
    /// When the table is used up.
    #[must_use]
    pub fn grant(&self, grantee: DomId, gfn: Gfn, readonly: bool) -> GrantRef {
        let gref = self.free(|free| {
            free.grefs.pop().unwrap_or_else(|| {
                free.next_gref += 1;
                GrantRef(free.next_gref - 1)
            })
        });
        self.grant_access(gref, grantee, gfn, readonly);
        gref
    }

    /// Writes an entry: the frame, then who may have it.
    ///
    /// # Panics
    ///
    /// Where the table has no such entry, or a version 1 entry has no room for the frame's number.
    pub fn grant_access(&self, gref: GrantRef, grantee: DomId, gfn: Gfn, readonly: bool) {
        let flags = GTF_permit_access | if readonly { GTF_readonly } else { 0 };
        let written = self.entry(gref).write(flags, grantee, gfn, Part::PAGE);
        assert!(written, "version 1 frames have 32 bits");
    }

    /// Writes an entry that grants `len` bytes of a frame from `start` on (version 2).
    ///
    /// # Panics
    ///
    /// As [`grant_access`](Self::grant_access).
    pub fn grant_part(
        &self,
        gref: GrantRef,
        grantee: DomId,
        gfn: Gfn,
        readonly: bool,
        (start, len): (u16, u16),
    ) {
        let readonly = if readonly { GTF_readonly } else { 0 };
        let flags = GTF_permit_access | GTF_sub_page | readonly;
        let written = self
            .entry(gref)
            .write(flags, grantee, gfn, Part { start, len });
        assert!(written, "version 1 frames have 32 bits");
    }

    /// Writes an entry that accepts a frame from `giver`, to be at `gfn`.
    ///
    /// # Panics
    ///
    /// As [`grant_access`](Self::grant_access).
    pub fn accept_transfer(&self, gref: GrantRef, giver: DomId, gfn: Gfn) {
        let entry = self.entry(gref);
        let written = entry.write(GTF_accept_transfer, giver, gfn, Part::PAGE);
        assert!(written, "version 1 frames have 32 bits");
    }

    /// Gives the guest an address space, for mappings and transfers.
    ///
    /// # Panics
    ///
    /// Where it has one.
    #[must_use]
    pub fn with_space(&self) -> Arc<HeapSpace> {
        let space = Arc::new(HeapSpace::new(self.frames.clone()));
        assert!(self.table.set_space(space.clone()), "it has a space");
        space
    }

    /// Writes anything into an entry.
    ///
    /// # Panics
    ///
    /// Where the table has no such entry.
    pub fn write_entry(&self, gref: GrantRef, flags: u16, grantee: DomId, frame: u32) {
        let gfn = Gfn(frame.into());
        self.entry(gref).write(flags, grantee, gfn, Part::PAGE);
    }

    /// The entry's flags: `GTF_reading` and `GTF_writing` while it is in use.
    ///
    /// # Panics
    ///
    /// Where the table has no such entry.
    #[must_use]
    pub fn entry_flags(&self, gref: GrantRef) -> u16 {
        let raw = self.entry(gref).raw();
        raw.flags | raw.marks
    }

    /// Revokes a grant; true where nobody uses it. One in use stays granted with version 1, and is not granted anew with
    /// version 2. The entry remains the caller's.
    ///
    /// # Panics
    ///
    /// Where the table has no such entry.
    #[must_use]
    pub fn end_access(&self, gref: GrantRef) -> bool {
        self.entry(gref).revoke()
    }

    /// Revokes a grant that [`grant`](Self::grant) made, and frees its reference; false (and nothing done) while it is in use.
    ///
    /// # Panics
    ///
    /// Where the table has no such entry.
    #[must_use]
    pub fn ungrant(&self, gref: GrantRef) -> bool {
        let revoked = self.end_access(gref);
        if revoked {
            self.free(|free| free.grefs.push(gref));
        }
        revoked
    }

    /// Copies bytes into the guest's memory; they may go on into the next frames.
    ///
    /// # Panics
    ///
    /// Beyond the memory's end.
    pub fn write(&self, gfn: Gfn, offset: usize, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            self.byte(gfn, offset + n).store(*byte, Relaxed);
        }
    }

    /// Copies bytes out of the guest's memory; they may go on into the next frames.
    ///
    /// # Panics
    ///
    /// Beyond the memory's end.
    #[must_use]
    pub fn read(&self, gfn: Gfn, offset: usize, len: usize) -> Vec<u8> {
        (0..len)
            .map(|n| self.byte(gfn, offset + n).load(Relaxed))
            .collect()
    }

    fn byte(&self, gfn: Gfn, offset: usize) -> &AtomicU8 {
        let page = self.address(Gfn(gfn.0 + (offset / PAGE_SIZE) as u64));
        // SAFETY: within a page of the guest, which `frames` keeps.
        unsafe { AtomicU8::from_ptr(page.as_ptr().add(offset % PAGE_SIZE)) }
    }

    fn address(&self, gfn: Gfn) -> NonNull<u8> {
        self.frames.frame(gfn).expect("the guest has this frame")
    }

    fn entry(&self, gref: GrantRef) -> Entry<'_> {
        let version = match self.table.version() {
            2 => Version::Two,
            _ => Version::One,
        };
        let entry = self.entries.get(version, gref);
        entry.expect("the table has this entry")
    }

    fn free<T>(&self, with: impl FnOnce(&mut Free) -> T) -> T {
        with(&mut crate::locked(&self.free))
    }
}

impl Drop for HeapGuest {
    fn drop(&mut self) {
        // Only if it is still this one: a later domain may have the number.
        if self
            .tables
            .get(self.dom)
            .is_some_and(|table| Arc::ptr_eq(&table, &self.table))
        {
            self.tables.remove(self.dom);
        }
    }
}

impl fmt::Debug for HeapGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapGuest")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}
