//! The entries of a version 1 table, in memory that the guest writes at any time.

// UNSAFETY: atomics are laid over raw memory that another party shares.
#![expect(unsafe_code)]

use std::mem::{offset_of, size_of};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, Ordering};

use cantle_abi::grant_table::{
    GTF_permit_access, GTF_reading, GTF_readonly, GTF_type_mask, GTF_writing, GrantEntryV1,
};
use cantle_abi::{DomId, Gfn, GrantRef, SharedMemory};

/// How often an entry that changes under our hands is looked at again.
const ATTEMPTS: u32 = 5;

/// A table's pages, reached by atomics only. Keeps the memory alive.
pub(crate) struct Entries {
    base: NonNull<u8>,
    len: usize,
    _memory: Arc<dyn SharedMemory + Send + Sync>,
}

// SAFETY: the memory may be reached from any thread (`_memory` is Send and Sync, and keeps it mapped), and this type hands
// out nothing but references to atomics.
unsafe impl Send for Entries {}
// SAFETY: as above.
unsafe impl Sync for Entries {}

// The entry is taken as two words of 32 bits, the first of them flags and domid together.
const _: () = assert!(
    size_of::<GrantEntryV1>() == 8
        && offset_of!(GrantEntryV1, flags) == 0
        && offset_of!(GrantEntryV1, domid) == 2
        && offset_of!(GrantEntryV1, frame) == 4
);

/// One entry: `header` is flags (low half) and domid (high half).
pub(crate) struct Entry<'a, W = AtomicU32> {
    header: &'a W,
    frame: &'a W,
}

/// One word of an entry. `core`'s atomic, and loom's in the model test.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u32;
    fn store(&self, value: u32, order: Ordering);
    /// True where the word was `current`, and is `new` now.
    fn exchange(&self, current: u32, new: u32, success: Ordering) -> bool;
    fn fetch_and(&self, bits: u32, order: Ordering) -> u32;
}

impl Word for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }
    fn store(&self, value: u32, order: Ordering) {
        AtomicU32::store(self, value, order);
    }
    fn exchange(&self, current: u32, new: u32, success: Ordering) -> bool {
        self.compare_exchange(current, new, success, Relaxed)
            .is_ok()
    }
    fn fetch_and(&self, bits: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_and(self, bits, order)
    }
}

impl Entries {
    pub(crate) fn new(memory: Arc<dyn SharedMemory + Send + Sync>) -> Self {
        Self {
            base: memory.as_ptr(),
            len: memory.len(),
            _memory: memory,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The entry of a reference; `None` beyond the memory.
    pub(crate) fn get(&self, gref: GrantRef) -> Option<Entry<'_>> {
        let offset = usize::try_from(gref.0)
            .ok()?
            .checked_mul(size_of::<GrantEntryV1>())?;
        if offset.checked_add(size_of::<GrantEntryV1>())? > self.len {
            return None;
        }
        // SAFETY: in range, and aligned since the base is; the memory lives as long as `self`, and all other accesses by this
        // process are atomic and of the same size. The guest's are outside of Rust's view.
        let (header, frame) = unsafe {
            let entry = self.base.as_ptr().add(offset).cast::<u32>();
            (
                AtomicU32::from_ptr(entry),
                AtomicU32::from_ptr(entry.add(1)),
            )
        };
        Some(Entry { header, frame })
    }
}

/// An entry does not grant what was asked; whether it has been marked before that was clear, and must be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Untouched,
    Marked,
}

fn header(flags: u16, domid: DomId) -> u32 {
    u32::from(flags) | u32::from(domid.0) << 16
}

impl<W: Word> Entry<'_, W> {
    /// Marks the entry as read (and, for `write`, written) by `grantee`, if it permits that, and returns its frame.
    ///
    /// `kind` are the flags that must say "access permitted" and nothing else. The frame is one that stood in the entry while
    /// it permitted the access: it is read between two looks at the same marked header. Bounded: an entry that
    /// keeps changing is refused.
    pub(crate) fn mark(&self, grantee: DomId, write: bool, kind: u16) -> Result<Gfn, Refused> {
        let want = u32::from(if write {
            GTF_reading | GTF_writing
        } else {
            GTF_reading
        });
        let refuse = kind | if write { GTF_readonly } else { 0 };
        let expect = header(GTF_permit_access, grantee);
        let compare = header(refuse, DomId(u16::MAX));
        let mut refused = Refused::Untouched;
        for _ in 0..ATTEMPTS {
            // One copy of the header is checked, and only that very value is exchanged.
            let seen = self.header.load(Relaxed);
            if seen & compare != expect {
                break;
            }
            let marked = seen | want;
            // SeqCst, a full barrier: pairs with the guest's compare-and-swap that revokes; one of them comes first. It also
            // acquires the frame that the guest wrote before it wrote the flags.
            if !self.header.exchange(seen, marked, SeqCst) {
                continue;
            }
            refused = Refused::Marked;
            // Acquire: the second look at the header is not done before it.
            let frame = self.frame.load(Acquire);
            // A guest that minds the marks cannot have changed the frame since; one that does not is found out here.
            if self.header.load(Acquire) == marked {
                return Ok(Gfn(u64::from(frame)));
            }
        }
        Err(refused)
    }

    /// Clears marks. What was done with the page before is visible to a guest that sees them cleared.
    pub(crate) fn clear(&self, marks: u16) {
        // SeqCst, hence also a release: pairs with the guest's look at the flags before it takes the page back.
        self.header.fetch_and(!u32::from(marks), SeqCst);
    }

    /// Writes an entry that nobody uses, as the guest itself would.
    pub(crate) fn write(&self, flags: u16, domid: DomId, frame: u32) {
        // Not a plain store: it comes after a mark or before it, in loom's view too.
        self.header.fetch_and(0, SeqCst);
        self.frame.store(frame, SeqCst);
        self.header.store(header(flags, domid), SeqCst);
    }

    /// Revokes, as a guest does: unless the entry is in use. True where it is revoked.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn revoke(&self) -> bool {
        let in_use = u32::from(GTF_reading | GTF_writing);
        loop {
            let seen = self.header.load(SeqCst);
            if seen & in_use != 0 {
                return false;
            }
            if self.header.exchange(seen, 0, SeqCst) {
                return true;
            }
        }
    }

    /// The flags as they stand.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn flags(&self) -> u16 {
        u16::try_from(self.header.load(SeqCst) & 0xffff).unwrap_or(0)
    }
}

/// The flags that a copy looks at: the kind of the grant.
pub(crate) const KIND_FOR_COPY: u16 = GTF_type_mask;
/// And a mapping: a part of a page cannot be mapped.
pub(crate) const KIND_FOR_MAP: u16 = GTF_type_mask | cantle_abi::grant_table::GTF_sub_page;

#[cfg(test)]
mod tests;
