//! The entries of a table, in memory that the guest writes at any time.

// UNSAFETY: atomics are laid over raw memory that another party shares.
#![expect(unsafe_code)]

mod v1;
mod v2;
mod word;

use std::mem::{offset_of, size_of};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use cantle_abi::grant_table::{
    GRANT_ENTRIES_PER_FRAME_V1, GRANT_ENTRIES_PER_FRAME_V2, GTF_accept_transfer, GTF_sub_page,
    GTF_transfer_committed, GTF_transfer_completed, GTF_type_mask, GrantEntryV1, GrantEntryV2,
};
use cantle_abi::{DomId, Gfn, GrantRef, PAGE_SIZE, SharedMemory};

pub(crate) use v1::EntryV1;
pub(crate) use v2::EntryV2;
pub(crate) use word::Word;

/// How often an entry that changes under our hands is looked at again.
const ATTEMPTS: u32 = 5;

/// Which of the two layouts the entries have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

impl Version {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// Entries in a frame of the table.
    pub(crate) const fn per_frame(self) -> u32 {
        match self {
            Self::One => GRANT_ENTRIES_PER_FRAME_V1,
            Self::Two => GRANT_ENTRIES_PER_FRAME_V2,
        }
    }
}

/// A part of a page, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start: u16,
    pub(crate) len: u16,
}

impl Part {
    /// All of it.
    pub(crate) const PAGE: Self = Self {
        start: 0,
        len: 4096,
    };

    /// Whether `len` bytes at `offset` are in it.
    pub(crate) fn contains(self, offset: u16, len: usize) -> bool {
        // What the guest says of its part may reach beyond the page; the callers have looked at that for themselves.
        let end = usize::from(offset) + len;
        offset >= self.start && end <= usize::from(self.start) + usize::from(self.len)
    }
}

/// What an entry grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) gfn: Gfn,
    pub(crate) part: Part,
}

/// An entry's contents, of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    /// What the guest wrote.
    pub(crate) flags: u16,
    pub(crate) grantee: DomId,
    pub(crate) part: Part,
    pub(crate) gfn: Gfn,
    /// What the host marked.
    pub(crate) marks: u16,
}

/// An entry does not grant what was asked; whether it has been marked before that was clear, and must be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Untouched,
    Marked,
}

/// One entry of a table.
pub(crate) enum Entry<'a> {
    V1(EntryV1<'a>),
    V2(EntryV2<'a>),
}

// The entries are taken as words of 32 and 64 bits, the first of them flags and domid together.
const _: () = assert!(
    size_of::<GrantEntryV1>() == 8
        && offset_of!(GrantEntryV1, flags) == 0
        && offset_of!(GrantEntryV1, domid) == 2
        && offset_of!(GrantEntryV1, frame) == 4
        && size_of::<GrantEntryV2>() == 16
        && offset_of!(GrantEntryV2, flags) == 0
        && offset_of!(GrantEntryV2, domid) == 2
        && offset_of!(GrantEntryV2, page_off) == 4
        && offset_of!(GrantEntryV2, length) == 6
        && offset_of!(GrantEntryV2, frame) == 8
);

fn header(flags: u16, domid: DomId) -> u32 {
    u32::from(flags) | u32::from(domid.0) << 16
}

fn flags_of(header: u32) -> u16 {
    let [a, b, ..] = header.to_le_bytes();
    u16::from_le_bytes([a, b])
}

fn grantee_of(header: u32) -> DomId {
    let [.., a, b] = header.to_le_bytes();
    DomId(u16::from_le_bytes([a, b]))
}

impl<'a> Entry<'a> {
    /// Marks the entry as read (and, for `write`, written) by `grantee`, if it permits that, and returns what it grants.
    ///
    /// `kind` are the flags that must say "access permitted" and nothing else. The frame is one that stood in the entry while
    /// it permitted the access: it is read between two looks at the same header, after the mark. Bounded: an entry that
    /// keeps changing is refused.
    #[inline(always)]
    pub(crate) fn mark(&self, grantee: DomId, write: bool, kind: u16) -> Result<Granted, Refused> {
        match self {
            Self::V1(entry) => entry.mark(grantee, write, kind),
            Self::V2(entry) => entry.mark(grantee, write, kind),
        }
    }

    /// Clears marks. What was done with the page before is visible to a guest that sees them cleared.
    pub(crate) fn clear(&self, marks: u16) {
        match self {
            Self::V1(entry) => entry.clear(marks),
            Self::V2(entry) => entry.clear(marks),
        }
    }

    /// Writes an entry that nobody uses, as the guest itself would; false where its version has no room for the frame's number.
    pub(crate) fn write(&self, flags: u16, grantee: DomId, gfn: Gfn, part: Part) -> bool {
        match self {
            Self::V1(entry) => match u32::try_from(gfn.0) {
                Ok(frame) => entry.write(flags, grantee, frame),
                Err(_) => return false,
            },
            Self::V2(entry) => entry.write(flags, grantee, gfn, part),
        }
        true
    }

    /// The entry as it stands; a guest that writes it meanwhile gets a mixture.
    pub(crate) fn raw(&self) -> Raw {
        match self {
            Self::V1(entry) => entry.raw(),
            Self::V2(entry) => entry.raw(),
        }
    }

    /// Writes all of an entry, the host's marks too.
    pub(crate) fn put(&self, raw: &Raw) {
        match self {
            Self::V1(_) => {
                self.write(raw.flags | raw.marks, raw.grantee, raw.gfn, raw.part);
            }
            Self::V2(entry) => {
                entry.status.store(raw.marks, SeqCst);
                self.write(raw.flags, raw.grantee, raw.gfn, raw.part);
            }
        }
    }

    /// Commits to a transfer of a frame from `giver`, if the entry accepts one: returns where it is to be. The guest leaves the
    /// entry alone from then on.
    pub(crate) fn commit(&self, giver: DomId) -> Option<Gfn> {
        let expect = header(GTF_accept_transfer, giver);
        let committed = expect | u32::from(GTF_transfer_committed);
        // Only from that very value, with none of the other flags.
        if !self.header().exchange(expect, committed, SeqCst) {
            return None;
        }
        Some(match self {
            Self::V1(entry) => Gfn(u64::from(entry.frame.load(Acquire))),
            Self::V2(entry) => Gfn(entry.frame.load(Acquire)),
        })
    }

    /// Says that the transfer is over.
    pub(crate) fn complete(&self) {
        // SeqCst, hence also a release: the page is there before the guest is told.
        self.header()
            .fetch_or(u32::from(GTF_transfer_completed), SeqCst);
    }

    fn header(&self) -> &'a AtomicU32 {
        match self {
            Self::V1(entry) => entry.header,
            Self::V2(entry) => entry.header,
        }
    }

    /// Revokes, as a guest does. True where nobody uses the entry any more; with version 2 nobody will use it anew in any case.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn revoke(&self) -> bool {
        match self {
            Self::V1(entry) => entry.revoke(),
            Self::V2(entry) => entry.revoke(),
        }
    }
}

/// Pages, reached by atomics only. Keeps the memory alive.
struct Pages {
    base: NonNull<u8>,
    len: usize,
    _memory: Arc<dyn SharedMemory + Send + Sync>,
}

// SAFETY: the memory may be reached from any thread (`_memory` is Send and Sync, and keeps it mapped), and this type hands
// out nothing but addresses for atomics.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(memory: Arc<dyn SharedMemory + Send + Sync>) -> Self {
        Self {
            base: memory.as_ptr(),
            len: memory.len(),
            _memory: memory,
        }
    }

    /// Where the `index`th thing of `size` bytes is; `None` where it is not all within.
    #[inline(always)]
    fn at(&self, index: u32, size: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(index).ok()?.checked_mul(size)?;
        if offset.checked_add(size)? > self.len {
            return None;
        }
        // SAFETY: checked to be within the memory, which lives as long as `self`.
        Some(unsafe { self.base.add(offset) })
    }

    /// Zeroes the first bytes; the guest may write between.
    fn clear(&self, bytes: usize) {
        for index in 0..u32::try_from(bytes.min(self.len) / 8).unwrap_or(u32::MAX) {
            if let Some(word) = self.at(index, 8) {
                // SAFETY: in range and aligned, since the base is; all other accesses by this process are atomic. Those to
                // halves of the word cannot be under way: the caller holds all entries' locks.
                unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }.store(0, Relaxed);
            }
        }
    }
}

/// A table's pages.
pub(crate) struct Entries {
    shared: Pages,
    status: Option<Pages>,
}

impl Entries {
    pub(crate) fn new(
        shared: Arc<dyn SharedMemory + Send + Sync>,
        status: Option<Arc<dyn SharedMemory + Send + Sync>>,
    ) -> Self {
        Self {
            shared: Pages::new(shared),
            status: status.map(Pages::new),
        }
    }

    /// Bytes of the entries and of the status words.
    pub(crate) fn len(&self) -> (usize, usize) {
        (
            self.shared.len,
            self.status.as_ref().map_or(0, |status| status.len),
        )
    }

    /// The entry of a reference; `None` beyond the memory.
    #[inline(always)]
    pub(crate) fn get(&self, version: Version, gref: GrantRef) -> Option<Entry<'_>> {
        if version == Version::One {
            let entry = self.shared.at(gref.0, size_of::<GrantEntryV1>())?;
            let words = entry.as_ptr().cast::<u32>();
            // SAFETY: in range, and aligned since the base is; the memory lives as long as `self`, and all other accesses by this
            // process are atomic and of the same size. The guest's are outside of Rust's view.
            let (header, frame) = unsafe {
                (
                    AtomicU32::from_ptr(words),
                    AtomicU32::from_ptr(words.add(1)),
                )
            };
            return Some(Entry::V1(EntryV1 { header, frame }));
        }
        let entry = self.shared.at(gref.0, size_of::<GrantEntryV2>())?;
        let words = entry.as_ptr().cast::<u32>();
        let status = self.status.as_ref()?.at(gref.0, size_of::<u16>())?;
        // SAFETY: as above.
        let entry = unsafe {
            EntryV2 {
                header: AtomicU32::from_ptr(words),
                part: AtomicU32::from_ptr(words.add(1)),
                frame: AtomicU64::from_ptr(words.add(2).cast()),
                status: AtomicU16::from_ptr(status.as_ptr().cast()),
            }
        };
        Some(Entry::V2(entry))
    }

    /// Zeroes the first frames' entries, and all status words. Nobody else may be at an entry.
    pub(crate) fn clear(&self, frames: u32) {
        let bytes = usize::try_from(frames).map(|frames| frames.saturating_mul(PAGE_SIZE));
        self.shared.clear(bytes.unwrap_or(usize::MAX));
        if let Some(status) = &self.status {
            status.clear(usize::MAX);
        }
    }
}

/// The flags that a copy looks at: the kind of the grant.
pub(crate) const KIND_FOR_COPY: u16 = GTF_type_mask;
/// And a mapping: a part of a page cannot be mapped.
pub(crate) const KIND_FOR_MAP: u16 = GTF_type_mask | GTF_sub_page;

#[cfg(test)]
mod tests;
