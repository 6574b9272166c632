//! `GNTTABOP_copy`.

use cantle_abi::grant_table::{
    GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTST_okay, GnttabCopy, GnttabCopyPtr,
};
use cantle_abi::{DomId, Gfn, GrantRef};

use crate::copy::{End, Pinned, copy_pages, within_page};
use crate::tables::ByDomain;
use crate::{GrantStatus, Tables};

/// As many copies are pinned at a time.
const AT_A_TIME: usize = 8;

impl Tables {
    /// `GNTTABOP_copy` of a list by guest `caller`: between granted pages and its own frames, in all four forms. Each `op.status`
    /// says what became of that one.
    ///
    /// A copy stays within a page at either end, as the interface has it. They are done in order; one that fails does not
    /// stop the others. A copy without bytes is done without looking at anything. Of grants nothing is kept from one copy to the next.
    pub fn guest_copy(&self, caller: DomId, ops: &mut [GnttabCopy]) {
        let tables = self.read();
        for ops in ops.chunks_mut(AT_A_TIME) {
            // Pinned first, then copied, then unpinned: see `InProcessMapper`.
            let mut pinned: [Option<Pair<'_>>; AT_A_TIME] = [const { None }; AT_A_TIME];
            for (op, pinned) in ops.iter_mut().zip(&mut pinned) {
                op.status = match pin(&tables, caller, op) {
                    Ok(pair) => {
                        *pinned = pair;
                        GNTST_okay
                    }
                    Err(status) => status.0,
                };
            }
            for (op, pinned) in ops.iter_mut().zip(&pinned) {
                if let Some(pair) = pinned
                    && let Err(status) = pair.copy(op)
                {
                    op.status = status.0;
                }
            }
        }
    }
}

/// Both ends of a copy.
struct Pair<'a> {
    source: End<'a>,
    dest: End<'a>,
}

impl Pair<'_> {
    fn copy(&self, op: &GnttabCopy) -> Result<(), GrantStatus> {
        let len = usize::from(op.len);
        let (from, to) = (op.source.offset, op.dest.offset);
        copy_pages(&self.source, from, &self.dest, to, len)?;
        self.source.count(u64::from(op.len));
        self.dest.count(u64::from(op.len));
        Ok(())
    }
}

/// Finds both ends; `None` for a copy without bytes.
fn pin<'a>(
    tables: &'a ByDomain,
    caller: DomId,
    op: &GnttabCopy,
) -> Result<Option<Pair<'a>>, GrantStatus> {
    if op.len == 0 {
        return Ok(None);
    }
    let len = usize::from(op.len);
    within_page(op.source.offset, len)?;
    within_page(op.dest.offset, len)?;
    // Each end is found and pinned by itself: nothing learnt of one is used for the other (XSA-500, CVE-2026-102703).
    let source_gref = op.flags & GNTCOPY_source_gref != 0;
    let source = end(tables, caller, &op.source, len, source_gref, false)?;
    let dest_gref = op.flags & GNTCOPY_dest_gref != 0;
    let dest = end(tables, caller, &op.dest, len, dest_gref, true)?;
    Ok(Some(Pair { source, dest }))
}

/// Finds one end of a guest's copy.
fn end<'a>(
    tables: &'a ByDomain,
    caller: DomId,
    at: &GnttabCopyPtr,
    len: usize,
    is_gref: bool,
    write: bool,
) -> Result<End<'a>, GrantStatus> {
    // A frame can be named in the caller's own memory only, and only as its own.
    if !is_gref && at.domid != DomId::SELF {
        return Err(GrantStatus::PERMISSION_DENIED);
    }
    let table = tables
        .get(&at.domid.resolve(caller))
        .ok_or(GrantStatus::BAD_DOMAIN)?;
    if is_gref {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a reference is the union's low half"
        )]
        let gref = GrantRef(at.u as u32);
        let pinned = Pinned::new(table, gref, caller, write, at.offset, len)?;
        Ok(End::Granted(pinned))
    } else {
        Ok(End::Own {
            _table: table,
            page: table.frame(Gfn(at.u))?,
        })
    }
}
