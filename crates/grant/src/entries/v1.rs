//! A version 1 entry: what the guest grants and what the host marks are one word.

#![expect(
    non_upper_case_globals,
    reason = "kinds of entries are matched by the names of Xen's header"
)]

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use cantle_abi::grant_table::{
    GTF_accept_transfer, GTF_permit_access, GTF_reading, GTF_readonly, GTF_type_mask, GTF_writing,
};
use cantle_abi::{DomId, Gfn};

use super::{ATTEMPTS, Granted, Part, Raw, Refused, Word, flags_of, grantee_of, header};

/// One entry: `header` is flags (low half) and domid (high half).
pub(crate) struct EntryV1<'a, W = AtomicU32> {
    pub(super) header: &'a W,
    pub(super) frame: &'a W,
}

impl<W: Word<Value = u32>> EntryV1<'_, W> {
    /// As [`Entry::mark`](super::Entry::mark). It is done by a compare-and-swap of flags and domid together.
    #[inline(always)]
    pub(crate) fn mark(&self, grantee: DomId, write: bool, kind: u16) -> Result<Granted, Refused> {
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
                return Ok(Granted {
                    gfn: Gfn(u64::from(frame)),
                    part: Part::PAGE,
                });
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

    /// The entry as it stands.
    pub(super) fn raw(&self) -> Raw {
        let seen = self.header.load(SeqCst);
        let flags = flags_of(seen);
        // In an entry for a transfer the same bits say how far that is.
        let marks = match flags & GTF_type_mask {
            GTF_accept_transfer => 0,
            _ => flags & (GTF_reading | GTF_writing),
        };
        Raw {
            flags: flags & !marks,
            grantee: grantee_of(seen),
            part: Part::PAGE,
            gfn: Gfn(u64::from(self.frame.load(SeqCst))),
            marks,
        }
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
}
