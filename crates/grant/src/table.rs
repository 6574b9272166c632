//! One domain's grant table.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

use cantle_abi::grant_table::{
    GRANT_ENTRIES_PER_FRAME_V1, GTF_permit_access, GTF_reading, GTF_writing,
};
use cantle_abi::{DomId, Errno, Gfn, GrantRef, PAGE_SIZE, SharedMemory};

use crate::active::{Active, Locked, MAX_USES, Pins};
use crate::entries::{Entries, Entry, Refused};
use crate::{GrantStatus, GuestFrames};

/// The most frames that any table may have.
const MAX_FRAMES: u32 = 4096;

/// How large a table is and may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// Frames (of 512 entries) that it begins with.
    pub initial_frames: u32,
    /// Frames that it may grow to; at most 4096.
    pub max_frames: u32,
}

/// One frame, growing to 64, as Xen's defaults are.
impl Default for TableConfig {
    fn default() -> Self {
        Self {
            initial_frames: 1,
            max_frames: 64,
        }
    }
}

/// Why a table cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No frames, more than 4096, or more to begin with than at most.
    #[error("a table cannot begin with {} of {} frames", .0.initial_frames, .0.max_frames)]
    Frames(TableConfig),
    /// The memory has fewer bytes than the table may grow to.
    #[error("{0} bytes are too few for the table's entries")]
    TooSmall(usize),
}

/// How often a domain's grants were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Mappings made.
    pub maps: u64,
    /// Mappings ended.
    pub unmaps: u64,
    /// Pieces copied out of or into its granted pages.
    pub copies: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A grant that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Which.
    pub gref: GrantRef,
    /// By whom.
    pub grantee: DomId,
    /// How many uses: mappings, and copies under way.
    pub uses: u32,
}

/// One domain's grant table, version 1, and its memory.
///
/// The guest writes the entries; the host marks those in use. Every method may be called from any thread, whatever
/// the guest writes meanwhile.
pub struct GrantTable {
    dom: DomId,
    max_frames: u32,
    nr_frames: AtomicU32,
    entries: Entries,
    frames: Arc<dyn GuestFrames>,
    /// Uses by entry, a boxed slice for each frame of the table.
    active: Box<[OnceLock<Box<[Active]>>]>,
    /// Set when the domain ends: nothing new is pinned.
    dying: AtomicBool,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    maps: AtomicU64,
    unmaps: AtomicU64,
    copies: AtomicU64,
    bytes: AtomicU64,
}

impl GrantTable {
    /// A table of `dom` whose entries are in `entries` (`max_frames` pages, zeroed, which the guest sees as its grant frames) and
    /// whose pages are found by `frames`.
    ///
    /// # Errors
    ///
    /// [`TableError`] where the sizes do not fit.
    pub fn new(
        dom: DomId,
        config: TableConfig,
        entries: Arc<dyn SharedMemory + Send + Sync>,
        frames: Arc<dyn GuestFrames>,
    ) -> Result<Arc<Self>, TableError> {
        let TableConfig {
            initial_frames,
            max_frames,
        } = config;
        if initial_frames == 0 || max_frames > MAX_FRAMES || initial_frames > max_frames {
            return Err(TableError::Frames(config));
        }
        let entries = Entries::new(entries);
        let needed = usize::try_from(max_frames).map(|frames| frames * PAGE_SIZE);
        if needed.map_or(true, |needed| entries.len() < needed) {
            return Err(TableError::TooSmall(entries.len()));
        }
        let table = Self {
            dom,
            max_frames,
            nr_frames: AtomicU32::new(0),
            entries,
            frames,
            active: (0..max_frames).map(|_| OnceLock::new()).collect(),
            dying: AtomicBool::new(false),
            counters: Counters::default(),
        };
        table.extend(initial_frames);
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
        self.max_frames
    }

    /// The table's version, 1 (`GNTTABOP_get_version`).
    #[must_use]
    pub fn version(&self) -> u32 {
        1
    }

    /// `GNTTABOP_set_version`. Version 2 is not offered; a guest that is refused stays with version 1.
    ///
    /// # Errors
    ///
    /// As Xen with `gnttab=max-ver:1`: [`Errno::ENOSYS`] for version 2, [`Errno::EINVAL`] for what is no version.
    pub fn set_version(&self, version: u32) -> Result<(), Errno> {
        match version {
            1 => Ok(()),
            2 => Err(Errno::ENOSYS),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Lets the table have at least `frames` frames (`GNTTABOP_setup_table`; `XENMEM_add_to_physmap` of a frame beyond the end).
    /// It never shrinks.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::GENERAL_ERROR`] beyond the limit.
    pub fn grow(&self, frames: u32) -> Result<(), GrantStatus> {
        if frames > self.max_frames {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        self.extend(frames);
        Ok(())
    }

    /// Writes an entry on the guest's behalf before it runs: what the toolstack does with the reserved ones.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::BAD_GNTREF`] beyond the table's end; [`GrantStatus::BAD_PAGE`] for a frame that is not the guest's memory or
    /// does not fit a version 1 entry; [`GrantStatus::GENERAL_ERROR`] while the entry is in use.
    pub fn seed(&self, gref: GrantRef, grantee: DomId, gfn: Gfn) -> Result<(), GrantStatus> {
        let frame = u32::try_from(gfn.0).map_err(|_| GrantStatus::BAD_PAGE)?;
        self.frame(gfn)?;
        let (entry, locked) = self.lock(gref)?;
        if locked.pins.uses != 0 {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        entry.write(GTF_permit_access, grantee, frame);
        Ok(())
    }

    /// The grants in use, from the lowest: what is still mapped when a domain ends. Bounded by the table's size.
    #[must_use]
    pub fn mapped(&self) -> Vec<InUse> {
        let active = self.active.iter().filter_map(OnceLock::get);
        let entries = active.flat_map(|frame| frame.iter());
        let in_use = (0u32..).zip(entries).filter_map(|(gref, active)| {
            let Pins { grantee, uses, .. } = active.lock().pins;
            (uses != 0).then_some(InUse {
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
        Stats {
            maps: self.counters.maps.load(Relaxed),
            unmaps: self.counters.unmaps.load(Relaxed),
            copies: self.counters.copies.load(Relaxed),
            bytes: self.counters.bytes.load(Relaxed),
        }
    }

    /// Nothing new is pinned from now on; what is stays.
    pub(crate) fn end(&self) {
        self.dying.store(true, SeqCst);
    }

    /// Pins the page of a grant for `grantee`, until [`unpin`](Self::unpin) with the same `write`.
    pub(crate) fn pin(
        &self,
        gref: GrantRef,
        grantee: DomId,
        write: bool,
        kind: u16,
    ) -> Result<NonNull<u8>, GrantStatus> {
        let (entry, mut locked) = self.lock(gref)?;
        // Looked at with the entry's lock held: a `mapped` after the domain's end misses nothing.
        if self.dying.load(SeqCst) {
            return Err(GrantStatus::BAD_DOMAIN);
        }
        let pins = &mut locked.pins;
        // One domain at a time, as in Xen; and the count cannot run over.
        if pins.uses != 0 && (pins.grantee != grantee || pins.uses == MAX_USES) {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        // The entry is checked at each use, also where it is in use already: nothing about it is remembered.
        let page = match entry.mark(grantee, write, kind) {
            Ok(gfn) => self.frame(gfn),
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

    pub(crate) fn count_map(&self) {
        self.counters.maps.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_unmap(&self) {
        self.counters.unmaps.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_copies(&self, copies: u64, bytes: u64) {
        self.counters.copies.fetch_add(copies, Relaxed);
        self.counters.bytes.fetch_add(bytes, Relaxed);
    }

    /// An entry of the table, and the lock of the host's count of its uses.
    pub(crate) fn lock(&self, gref: GrantRef) -> Result<(Entry<'_>, Locked<'_>), GrantStatus> {
        let frame = gref.0 / GRANT_ENTRIES_PER_FRAME_V1;
        let find = || {
            let active = self.active.get(usize::try_from(frame).ok()?)?.get()?;
            let active = active.get(usize::try_from(gref.0 % GRANT_ENTRIES_PER_FRAME_V1).ok()?)?;
            Some((self.entries.get(gref)?, active))
        };
        let (entry, active) = find().ok_or(GrantStatus::BAD_GNTREF)?;
        Ok((entry, active.lock()))
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
            .field("nr_frames", &self.nr_frames())
            .field("max_frames", &self.max_frames)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
