//! One domain's grant table.

mod config;
mod reserved;
mod stats;
mod swap;
mod version;

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, OnceLock};

use cantle_abi::grant_table::{GRANT_ENTRIES_PER_FRAME_V1, GTF_reading, GTF_writing};
use cantle_abi::{DomId, Gfn, GrantRef, PAGE_SIZE, SharedMemory};

use crate::active::{Active, Locked, MAX_USES, Pins};
use crate::entries::{Entries, Entry, Part, Refused, Version};
use crate::maptrack::Maptrack;
use crate::{GrantStatus, GuestFrames};

pub(crate) use config::HANDLES_PER_FRAME;
pub use config::{TableConfig, TableError};
use stats::Counters;
pub use stats::Stats;

/// A grant that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Whose.
    pub granter: DomId,
    /// Which.
    pub gref: GrantRef,
    /// By whom.
    pub grantee: DomId,
    /// How many uses: mappings, and copies under way.
    pub uses: u32,
}

/// The pages that a table is made of. The guest sees them, and writes the entries.
pub struct TablePages {
    /// `max_frames` pages, zeroed: the guest's grant frames.
    pub entries: Arc<dyn SharedMemory + Send + Sync>,
    /// [`TableConfig::status_frames`] pages, zeroed; `None` for version 1.
    pub status: Option<Arc<dyn SharedMemory + Send + Sync>>,
}

/// One domain's grant table, and its memory.
///
/// The guest writes the entries; the host marks those in use. Every method may be called from any thread, whatever
/// the guest writes meanwhile.
///
/// The pages, those of status too, are the table's from its making to its end: none is given back when the version changes, so
/// that no use of one, and no look at one by the guest, can come too late (XSA-379 and its five successors).
pub struct GrantTable {
    dom: DomId,
    config: TableConfig,
    nr_frames: AtomicU32,
    /// The version's number. Changed with every entry's lock held: whoever holds one may go by it.
    version: AtomicU32,
    /// Held while the table grows or changes its version.
    shape: Mutex<()>,
    entries: Entries,
    frames: Arc<dyn GuestFrames>,
    /// Uses by entry, a boxed slice for each frame of the table.
    active: Box<[OnceLock<Box<[Active]>>]>,
    /// Set when the domain ends: nothing new is pinned.
    dying: AtomicBool,
    counters: Counters,
    maptrack: Maptrack,
}

/// A page that is pinned, and what of it may be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub(crate) ptr: NonNull<u8>,
    pub(crate) part: Part,
}

impl GrantTable {
    /// A version 1 table of `dom` whose entries are in `entries` (`max_frames` pages, zeroed, which the guest sees as its grant
    /// frames) and whose pages are found by `frames`.
    ///
    /// # Errors
    ///
    /// As [`with_pages`](Self::with_pages).
    pub fn new(
        dom: DomId,
        config: TableConfig,
        entries: Arc<dyn SharedMemory + Send + Sync>,
        frames: Arc<dyn GuestFrames>,
    ) -> Result<Arc<Self>, TableError> {
        let status = None;
        Self::with_pages(dom, config, TablePages { entries, status }, frames)
    }

    /// A table of `dom` that may have status frames too, as version 2 needs them. It begins with version 1.
    ///
    /// # Errors
    ///
    /// [`TableError`] where the sizes do not fit.
    pub fn with_pages(
        dom: DomId,
        config: TableConfig,
        pages: TablePages,
        frames: Arc<dyn GuestFrames>,
    ) -> Result<Arc<Self>, TableError> {
        config.check()?;
        let entries = Entries::new(pages.entries, pages.status);
        let (shared, status) = entries.len();
        let bytes = |frames| usize::try_from(frames).map_or(usize::MAX, |n| n * PAGE_SIZE);
        if shared < bytes(config.max_frames) {
            return Err(TableError::TooSmall(shared));
        }
        if status < bytes(config.status_frames()) {
            return Err(TableError::StatusTooSmall(status));
        }
        let table = Self {
            dom,
            config,
            nr_frames: AtomicU32::new(0),
            version: AtomicU32::new(1),
            shape: Mutex::new(()),
            entries,
            frames,
            active: (0..config.max_frames).map(|_| OnceLock::new()).collect(),
            dying: AtomicBool::new(false),
            counters: Counters::default(),
            maptrack: Maptrack::new(config.max_maptrack_frames),
        };
        table.extend(config.initial_frames);
        Ok(Arc::new(table))
    }

    /// Whose table.
    #[must_use]
    pub fn dom(&self) -> DomId {
        self.dom
    }

    /// Frames it has (`GNTTABOP_query_size`).
    #[must_use]
    pub fn nr_frames(&self) -> u32 {
        self.nr_frames.load(Acquire)
    }

    /// Frames it may have.
    #[must_use]
    pub fn max_frames(&self) -> u32 {
        self.config.max_frames
    }

    /// Lets the table have at least `frames` frames (`GNTTABOP_setup_table`; `XENMEM_add_to_physmap` of a frame beyond the end).
    /// It never shrinks.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::GENERAL_ERROR`] beyond the limit.
    pub fn grow(&self, frames: u32) -> Result<(), GrantStatus> {
        if frames > self.config.max_frames {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let _shape = crate::locked(&self.shape);
        self.extend(frames);
        Ok(())
    }

    /// The grants in use, from the lowest: what is still mapped when a domain ends. Bounded by the table's size.
    #[must_use]
    pub fn mapped(&self) -> Vec<InUse> {
        let entries = self.active_frames().flatten();
        let in_use = (0u32..).zip(entries).filter_map(|(gref, active)| {
            let Pins { grantee, uses, .. } = active.lock().pins;
            (uses != 0).then_some(InUse {
                granter: self.dom,
                gref: GrantRef(gref),
                grantee,
                uses,
            })
        });
        in_use.collect()
    }

    /// How often its grants were used.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }

    /// Nothing new is pinned from now on; what is stays.
    pub(crate) fn end(&self) {
        self.dying.store(true, SeqCst);
    }

    pub(crate) fn is_dying(&self) -> bool {
        self.dying.load(SeqCst)
    }

    /// What the domain has mapped of others.
    pub(crate) fn maptrack(&self) -> &Maptrack {
        &self.maptrack
    }

    /// Pins the page of a grant for `grantee`, until [`unpin`](Self::unpin) with the same `write`.
    pub(crate) fn pin(
        &self,
        gref: GrantRef,
        grantee: DomId,
        write: bool,
        kind: u16,
    ) -> Result<Page, GrantStatus> {
        let (entry, mut locked) = self.lock(gref)?;
        // Looked at with the entry's lock held: a `mapped` after the domain's end misses nothing.
        if self.is_dying() {
            return Err(GrantStatus::BAD_DOMAIN);
        }
        let pins = &mut locked.pins;
        // One domain at a time, as in Xen; and the count cannot run over.
        if pins.uses != 0 && (pins.grantee != grantee || pins.uses == MAX_USES) {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        // The entry is checked at each use, also where it is in use already: nothing about it is remembered.
        let page = match entry.mark(grantee, write, kind) {
            Ok(granted) => self.frame(granted.gfn).map(|ptr| Page {
                ptr,
                part: granted.part,
            }),
            Err(Refused::Untouched) => return Err(GrantStatus::GENERAL_ERROR),
            Err(Refused::Marked) => Err(GrantStatus::GENERAL_ERROR),
        };
        if page.is_ok() {
            pins.grantee = grantee;
            pins.uses += 1;
            pins.writers += u32::from(write);
        } else {
            settle(&entry, pins);
        }
        page
    }

    /// Ends one use of a grant.
    pub(crate) fn unpin(&self, gref: GrantRef, write: bool) {
        let Ok((entry, mut locked)) = self.lock(gref) else {
            return;
        };
        let pins = &mut locked.pins;
        pins.uses = pins.uses.saturating_sub(1);
        pins.writers = pins.writers.saturating_sub(u32::from(write));
        // Within the same critical section: the guest is told that its page is free when it is, not before (XSA-218).
        settle(&entry, pins);
    }

    /// The memory of one of the domain's frames.
    pub(crate) fn frame(&self, gfn: Gfn) -> Result<NonNull<u8>, GrantStatus> {
        self.frames.frame(gfn).ok_or(GrantStatus::BAD_PAGE)
    }

    pub(crate) fn count_maps(&self, count: u64) {
        self.counters.maps(count);
    }

    pub(crate) fn count_unmaps(&self, count: u64) {
        self.counters.unmaps(count);
    }

    pub(crate) fn count_copies(&self, copies: u64, bytes: u64) {
        self.counters.copies(copies, bytes);
    }

    /// An entry of the table, and the lock of the host's count of its uses.
    // Inlined, as what it calls is: what it returns is too large for registers, and would go by way of memory twice a pin.
    #[inline(always)]
    pub(crate) fn lock(&self, gref: GrantRef) -> Result<(Entry<'_>, Locked<'_>), GrantStatus> {
        let frame = gref.0 / GRANT_ENTRIES_PER_FRAME_V1;
        let find = || {
            let active = self.active.get(usize::try_from(frame).ok()?)?.get()?;
            active.get(usize::try_from(gref.0 % GRANT_ENTRIES_PER_FRAME_V1).ok()?)
        };
        let locked = find().ok_or(GrantStatus::BAD_GNTREF)?.lock();
        // With the entry's lock held, the version stays what it is.
        let version = self.version_in_use();
        if version == Version::Two && gref.0 / version.per_frame() >= self.nr_frames() {
            return Err(GrantStatus::BAD_GNTREF);
        }
        let entry = self.entries.get(version, gref);
        Ok((entry.ok_or(GrantStatus::BAD_GNTREF)?, locked))
    }

    fn version_in_use(&self) -> Version {
        // Relaxed: the entry's lock, which the caller holds, orders it.
        match self.version.load(Relaxed) {
            2 => Version::Two,
            _ => Version::One,
        }
    }

    /// The uses, by frames of a version 1 table.
    fn active_frames(&self) -> impl Iterator<Item = &[Active]> {
        let frames = self.active.iter().filter_map(OnceLock::get);
        frames.map(|frame| &**frame)
    }

    fn extend(&self, frames: u32) {
        for active in self
            .active
            .iter()
            .take(usize::try_from(frames).unwrap_or(0))
        {
            active.get_or_init(|| {
                (0..GRANT_ENTRIES_PER_FRAME_V1)
                    .map(|_| Active::default())
                    .collect()
            });
        }
        // Release: who sees the frame counted sees its entries.
        self.nr_frames.fetch_max(frames, Release);
    }
}

/// Leaves just the marks in the entry that its uses ask for.
fn settle(entry: &Entry<'_>, pins: &Pins) {
    let mut marks = 0;
    if pins.uses == 0 {
        marks |= GTF_reading;
    }
    if pins.writers == 0 {
        marks |= GTF_writing;
    }
    if marks != 0 {
        entry.clear(marks);
    }
}

impl fmt::Debug for GrantTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantTable")
            .field("dom", &self.dom)
            .field("version", &self.version())
            .field("nr_frames", &self.nr_frames())
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TablePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TablePages")
            .field("entries", &self.entries.len())
            .field("status", &self.status.as_ref().map(|status| status.len()))
            .finish()
    }
}
