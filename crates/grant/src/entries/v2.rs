//! A version 2 entry: the guest writes the entry, the host the entry's status, and each looks at the other's after a barrier.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use cantle_abi::grant_table::{
    GTF_permit_access, GTF_reading, GTF_readonly, GTF_sub_page, GTF_type_mask, GTF_writing,
};
use cantle_abi::{DomId, Gfn};

use super::{ATTEMPTS, Granted, Part, Raw, Refused, Word, flags_of, grantee_of, header};

/// One entry: `header` is flags (low half) and domid (high half), `part` the offset (low half) and length of a part of a page.
pub(crate) struct EntryV2<'a, W = AtomicU32, F = AtomicU64, S = AtomicU16> {
    pub(super) header: &'a W,
    pub(super) part: &'a W,
    pub(super) frame: &'a F,
    pub(super) status: &'a S,
}

impl<W, F, S> EntryV2<'_, W, F, S>
where
    W: Word<Value = u32>,
    F: Word<Value = u64>,
    S: Word<Value = u16>,
{
    /// As [`Entry::mark`](super::Entry::mark). The status is marked first; then the entry is looked at, and that is what counts.
    pub(crate) fn mark(&self, grantee: DomId, write: bool, kind: u16) -> Result<Granted, Refused> {
        let want = if write {
            GTF_reading | GTF_writing
        } else {
            GTF_reading
        };
        let refuse = kind | if write { GTF_readonly } else { 0 };
        let expect = header(GTF_permit_access, grantee);
        let compare = header(refuse, DomId(u16::MAX));
        // A first look, so that what grants nothing is not marked at all.
        if self.header.load(Acquire) & compare != expect {
            return Err(Refused::Untouched);
        }
        // SeqCst, with the barrier: pairs with the guest that revokes by clearing the flags and then looks at the status. Either
        // it sees the mark, or we see the flags cleared.
        self.status.fetch_or(want, SeqCst);
        W::barrier();
        for _ in 0..ATTEMPTS {
            let seen = self.header.load(SeqCst);
            if seen & compare != expect {
                break;
            }
            // Acquire, both: the last look at the header is not done before them.
            let frame = self.frame.load(Acquire);
            let part = self.part.load(Acquire);
            // Between two looks after the mark: a guest that minds it cannot have revoked and granted anew since.
            if self.header.load(Acquire) == seen {
                return Ok(Granted {
                    gfn: Gfn(frame),
                    part: part_of(seen, part),
                });
            }
        }
        Err(Refused::Marked)
    }

    /// As [`EntryV1::clear`](super::EntryV1::clear).
    pub(crate) fn clear(&self, marks: u16) {
        // Only the holder of the entry's lock writes the status, so it need not be one step. Release: pairs with the guest's look at
        // the status before it takes the page back.
        let left = self.status.load(Relaxed) & !marks;
        self.status.store(left, Release);
    }

    /// Writes an entry that nobody uses, as the guest itself would.
    pub(crate) fn write(&self, flags: u16, domid: DomId, gfn: Gfn, part: Part) {
        self.header.fetch_and(0, SeqCst);
        self.frame.store(gfn.0, SeqCst);
        let halves = u32::from(part.start) | u32::from(part.len) << 16;
        let is_part = flags & GTF_sub_page != 0;
        self.part.store(if is_part { halves } else { 0 }, SeqCst);
        self.header.store(header(flags, domid), SeqCst);
    }

    /// The entry as it stands.
    pub(super) fn raw(&self) -> Raw {
        let seen = self.header.load(SeqCst);
        Raw {
            flags: flags_of(seen),
            grantee: grantee_of(seen),
            part: part_of(seen, self.part.load(SeqCst)),
            gfn: Gfn(self.frame.load(SeqCst)),
            marks: self.status.load(SeqCst) & (GTF_reading | GTF_writing),
        }
    }

    /// Revokes, as a guest does: no new use from here on. True where there is none left either.
    #[cfg(any(test, feature = "test-utils"))]
    pub(crate) fn revoke(&self) -> bool {
        self.header.fetch_and(0, SeqCst);
        W::barrier();
        self.status.load(SeqCst) & (GTF_reading | GTF_writing) == 0
    }
}

/// What of the page is granted, by a header and the word behind it.
fn part_of(seen: u32, part: u32) -> Part {
    let kind = flags_of(seen) & (GTF_type_mask | GTF_sub_page);
    if kind == GTF_permit_access | GTF_sub_page {
        let [a, b, c, d] = part.to_le_bytes();
        Part {
            start: u16::from_le_bytes([a, b]),
            len: u16::from_le_bytes([c, d]),
        }
    } else {
        Part::PAGE
    }
}
