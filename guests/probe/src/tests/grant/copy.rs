//! `GNTTABOP_copy`, in all its forms, from and to the domain's own pages.

use core::sync::atomic::Ordering;

use cantle_abi::grant_table::{
    self as abi, GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTST_bad_copy_arg, GNTST_bad_domain,
    GNTST_bad_gntref, GNTST_bad_page, GNTST_general_error, GNTST_okay, GNTST_permission_denied,
    GRANT_ENTRIES_PER_FRAME_V1, GnttabCopy, GnttabCopyPtr,
};
use cantle_abi::xen::__HYPERVISOR_grant_table_op;
use cantle_abi::{DomId, GrantRef, PAGE_SIZE};

use super::{NOBODY, has};
use crate::memory::Window;
use crate::report::{Because as _, Outcome};
use crate::{Probe, ensure, grants, hypercall, memory};

const BOTH: u16 = GNTCOPY_source_gref | GNTCOPY_dest_gref;

fn copy(copies: &mut [GnttabCopy]) -> Outcome {
    let op = abi::GNTTABOP_copy;
    hypercall::op_many(__HYPERVISOR_grant_table_op, op, copies).because("GNTTABOP_copy")?;
    Ok(())
}

fn end(domid: DomId, u: u64, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr {
        u,
        domid,
        offset,
        pad: 0,
    }
}

/// Two pages, also lent by the domain to itself: the first for reading only, the second for writing.
struct Pages {
    own: DomId,
    from: Window,
    to: Window,
    source: GrantRef,
    dest: GrantRef,
}

impl Pages {
    fn new() -> Outcome<Self> {
        let own = hypercall::domid();
        let (from, to) = (memory::page()?, memory::page()?);
        from.fill(0, PAGE_SIZE, |i| i ^ 0x1234_5678_9abc_def0);
        Ok(Self {
            own,
            from,
            to,
            source: grants::grant(&from, own, true)?,
            dest: grants::grant(&to, own, false)?,
        })
    }

    /// A good copy in one of the four forms.
    fn copy(&self, flags: u16, from: u16, to: u16, len: u16) -> GnttabCopy {
        let source = match flags & GNTCOPY_source_gref {
            0 => end(DomId::SELF, self.from.gfn().0, from),
            _ => end(self.own, self.source.0.into(), from),
        };
        let dest = match flags & GNTCOPY_dest_gref {
            0 => end(DomId::SELF, self.to.gfn().0, to),
            _ => end(self.own, self.dest.0.into(), to),
        };
        GnttabCopy {
            source,
            dest,
            len,
            flags,
            status: 1,
            pad: 0,
        }
    }

    /// Whether the target holds just this part of the source, and nothing else.
    fn holds(&self, from: usize, to: usize, len: usize) -> bool {
        (0..PAGE_SIZE).all(|at| {
            let byte = self.to.byte(at).load(Ordering::Relaxed);
            match at.checked_sub(to) {
                Some(i) if i < len => byte == self.from.byte(from + i).load(Ordering::Relaxed),
                _ => byte == 0,
            }
        })
    }

    fn done(self) -> Outcome {
        for gref in [self.source, self.dest] {
            let (flags, _) = grants::entry(gref)?;
            ensure!(grants::end(gref)?, "entry {gref} stays in use: {flags:#x}");
        }
        Ok(())
    }
}

/// Frame or grant at either end, at odd places and sizes, and whole pages.
pub(crate) fn forms(_: &mut Probe) -> Outcome {
    grants::prepare()?;
    let pages = Pages::new()?;
    for flags in [0, GNTCOPY_source_gref, GNTCOPY_dest_gref, BOTH] {
        for (from, to, len) in [(1, 3, 61), (0, 0, 4096), (4095, 17, 1), (96, 4000, 96)] {
            pages.to.fill(0, PAGE_SIZE, |_| 0);
            let mut copies = [pages.copy(flags, from, to, len)];
            copy(&mut copies)?;
            has(GNTST_okay, copies[0].status, "a copy")?;
            ensure!(
                pages.holds(from.into(), to.into(), len.into()),
                "flags {flags}: {len} bytes from {from} to {to} are not there, or not alone"
            );
        }
    }
    let mut nothing = [pages.copy(BOTH, 0, 0, 0)];
    copy(&mut nothing)?;
    has(GNTST_okay, nothing[0].status, "a copy of no bytes")?;
    pages.done()
}

/// Each kind of copy that is refused: with its status, and without a byte moved.
pub(crate) fn refusals(_: &mut Probe) -> Outcome {
    grants::prepare()?;
    let pages = Pages::new()?;
    let frames = grants::query_size()?.nr_frames;
    let beyond = u64::from(frames * GRANT_ENTRIES_PER_FRAME_V1);
    let empty = u64::from(GRANT_ENTRIES_PER_FRAME_V1 - 1);
    let page = memory::page()?;
    let for_other = grants::grant(&page, DomId(0), false)?;
    let good = |flags| pages.copy(flags, 0, 0, 64);
    let source = |dom, u| GnttabCopy {
        source: end(dom, u, 0),
        ..good(GNTCOPY_source_gref)
    };
    let dest = |dom, u| GnttabCopy {
        dest: end(dom, u, 0),
        ..good(GNTCOPY_dest_gref)
    };
    let own = pages.own;
    let frame = |dom, u| GnttabCopy {
        source: end(dom, u, 0),
        ..good(0)
    };
    for (wrong, status, what) in [
        (
            source(own, beyond),
            GNTST_bad_gntref,
            "a grant beyond the table",
        ),
        (
            source(own, u32::MAX.into()),
            GNTST_bad_gntref,
            "grant 2^32-1",
        ),
        (
            source(own, empty),
            GNTST_general_error,
            "an entry that is none",
        ),
        (
            source(own, for_other.0.into()),
            GNTST_general_error,
            "a grant for another",
        ),
        (source(NOBODY, 9), GNTST_bad_domain, "a grant of nobody"),
        (
            dest(own, pages.source.0.into()),
            GNTST_general_error,
            "writing to a read-only grant",
        ),
        (
            dest(own, empty),
            GNTST_general_error,
            "writing to an entry that is none",
        ),
        (
            frame(own, 0xd0000),
            GNTST_permission_denied,
            "an own frame by number",
        ),
        (
            frame(DomId(0), 16),
            GNTST_permission_denied,
            "a frame of domain 0's",
        ),
        (
            frame(DomId::SELF, 0xd0000),
            GNTST_bad_page,
            "a frame that is nowhere",
        ),
        (frame(DomId::SELF, u64::MAX), GNTST_bad_page, "frame 2^64-1"),
        (
            pages.copy(BOTH, 4033, 0, 64),
            GNTST_bad_copy_arg,
            "across the source's end",
        ),
        (
            pages.copy(BOTH, 0, 4033, 64),
            GNTST_bad_copy_arg,
            "across the target's end",
        ),
        (
            pages.copy(0, 4096, 0, 1),
            GNTST_bad_copy_arg,
            "after the source's end",
        ),
        (
            pages.copy(0, 0, u16::MAX, u16::MAX),
            GNTST_bad_copy_arg,
            "all too long",
        ),
    ] {
        let mut copies = [wrong];
        copy(&mut copies)?;
        has(status, copies[0].status, what)?;
        ensure!(pages.holds(0, 0, 0), "{what}: bytes were moved");
    }
    ensure!(grants::end(for_other)?, "a grant for another stays in use");
    pages.done()
}

/// Many at once, good ones and bad ones: each has a status of its own, and the good ones are done.
pub(crate) fn batch(_: &mut Probe) -> Outcome {
    const COUNT: u16 = 50;
    grants::prepare()?;
    let pages = Pages::new()?;
    let mut copies = [pages.copy(0, 0, 0, 0); COUNT as usize];
    for (i, slot) in (0..COUNT).zip(&mut copies) {
        let flags = i & BOTH;
        *slot = pages.copy(flags, i * 64, i * 64, 64);
        if i % 5 == 3 {
            slot.source.offset = 4090;
        } else if i % 7 == 2 {
            slot.source = end(NOBODY, 0, 0);
            slot.flags |= GNTCOPY_source_gref;
        }
    }
    copy(&mut copies)?;
    for (i, done) in (0..COUNT).zip(&copies) {
        let due = match i {
            _ if i % 5 == 3 => GNTST_bad_copy_arg,
            _ if i % 7 == 2 => GNTST_bad_domain,
            _ => GNTST_okay,
        };
        ensure!(
            done.status == due,
            "copy {i} of {COUNT} has status {}, not {due}",
            done.status
        );
        let at = usize::from(i) * 64;
        let expected = if due == GNTST_okay {
            pages.from.word64(at).load(Ordering::Relaxed)
        } else {
            0
        };
        let word = pages.to.word64(at).load(Ordering::Relaxed);
        ensure!(
            word == expected,
            "copy {i} leaves {word:#x}, not {expected:#x}"
        );
    }
    pages.done()
}
