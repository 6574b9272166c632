//! The table's own calls: size, version, exchange, and those that only other kinds of guests can use.

use core::sync::atomic::Ordering;

use cantle_abi::grant_table::{
    self as abi, GRANT_ENTRIES_PER_FRAME_V1, GTF_permit_access, GnttabCacheFlush,
    GnttabGetStatusFrames, GnttabGetVersion, GnttabSetVersion, GnttabSetupTable,
    GnttabSwapGrantRef, GnttabTransfer,
};
use cantle_abi::{DomId, Errno, GrantRef, PAGE_SIZE};

use super::{NOBODY, call, has};
use crate::report::{Because as _, Outcome, refused};
use crate::{Probe, ensure, grants, hypercall, memory, say};

fn setup_table(dom: DomId, nr_frames: u32) -> Outcome<i16> {
    let list = memory::page()?;
    let mut setup = GnttabSetupTable {
        dom,
        pad: 0,
        nr_frames,
        status: 1,
        pad2: [0; 3],
        frame_list: list.addr(),
    };
    call(abi::GNTTABOP_setup_table, &mut setup).because("setup_table")?;
    Ok(setup.status)
}

/// The table grows as far as it may and no further, and is nobody else's business.
pub(crate) fn size(_: &mut Probe) -> Outcome {
    grants::prepare()?;
    let before = grants::query_size()?;
    let own = grants::query_size_of(hypercall::domid())?;
    ensure!(
        (own.status, own.max_nr_frames) == (abi::GNTST_okay, before.max_nr_frames),
        "by its own number the domain's table has status {}, {} frames at most",
        own.status,
        own.max_nr_frames
    );
    for dom in [DomId(0), NOBODY] {
        let status = grants::query_size_of(dom)?.status;
        ensure!(status < 0, "query_size of domain {dom} has status {status}");
        let status = setup_table(dom, 1)?;
        ensure!(
            status < 0,
            "setup_table of domain {dom} has status {status}"
        );
    }
    let wanted = before.nr_frames + 1;
    has(
        abi::GNTST_okay,
        setup_table(DomId::SELF, wanted)?,
        "one frame more",
    )?;
    let grown = grants::query_size()?.nr_frames;
    ensure!(grown == wanted, "{grown} frames, not {wanted}");
    for beyond in [before.max_nr_frames + 1, u32::MAX] {
        let status = setup_table(DomId::SELF, beyond)?;
        has(abi::GNTST_general_error, status, "frames beyond the limit")?;
    }
    // Fewer than there are is no request to shrink.
    has(abi::GNTST_okay, setup_table(DomId::SELF, 1)?, "one frame")?;
    let kept = grants::query_size()?.nr_frames;
    ensure!(kept == wanted, "after all that {kept} frames, not {wanted}");
    Ok(())
}

fn get_version(dom: DomId) -> Result<u32, Errno> {
    let mut get = GnttabGetVersion {
        dom,
        pad: 0,
        version: 0,
    };
    call(abi::GNTTABOP_get_version, &mut get)?;
    Ok(get.version)
}

/// The version that is wanted, and that which is in use after that.
fn set_version(version: u32) -> (Result<u64, Errno>, u32) {
    let mut set = GnttabSetVersion { version };
    let result = call(abi::GNTTABOP_set_version, &mut set);
    (result, set.version)
}

/// Version 1 is what there is; 2 where the host offers it; nothing else.
pub(crate) fn version(_: &mut Probe) -> Outcome {
    grants::prepare()?;
    refused(get_version(DomId(0)), "the version of domain 0's table")?;
    let own = get_version(hypercall::domid()).because("get_version by number")?;
    ensure!(own == 1, "the table has version {own}");
    for version in [0, 3, u32::MAX] {
        let errno = refused(set_version(version).0, "a version that there is not")?;
        ensure!(errno == Errno::EINVAL, "version {version}: {errno}");
    }
    let page = memory::page()?;
    let gref = grants::grant(&page, DomId(0), false)?;
    let (result, now) = set_version(1);
    ensure!(
        result.is_ok() && now == 1,
        "version 1 over version 1: {result:?}, then version {now}"
    );
    let (flags, _) = grants::entry(gref)?;
    ensure!(
        flags == u32::from(GTF_permit_access),
        "choosing the version in use changes an entry to {flags:#x}"
    );
    ensure!(grants::end(gref)?, "an entry that nobody uses is in use");
    // Status frames are version 2's.
    let mut frames = GnttabGetStatusFrames {
        nr_frames: 1,
        dom: DomId::SELF,
        status: 1,
        frame_list: page.addr(),
    };
    call(abi::GNTTABOP_get_status_frames, &mut frames).because("get_status_frames")?;
    has(
        abi::GNTST_general_error,
        frames.status,
        "a status frame of version 1",
    )?;
    let (result, now) = set_version(2);
    match result {
        Err(errno) => {
            ensure!(errno == Errno::ENOSYS, "version 2: {errno}");
            ensure!(now == 1, "after the refusal the version is {now}");
            say!("probe: grant-version: version 2 is not offered");
        }
        Ok(_) => {
            ensure!(now == 2, "version 2 was chosen, {now} is in use");
            let (result, now) = set_version(1);
            ensure!(
                result.is_ok() && now == 1,
                "back to version 1: {result:?}, then version {now}"
            );
        }
    }
    let version = get_version(DomId::SELF).because("get_version")?;
    ensure!(version == 1, "in the end the table has version {version}");
    Ok(())
}

/// Two entries change places; one that is in use or is none does not.
pub(crate) fn swap(_: &mut Probe) -> Outcome {
    let (one, two) = (memory::page()?, memory::page()?);
    let a = grants::grant(&one, DomId(0), false)?;
    let b = grants::grant(&two, DomId(0), true)?;
    let swap = |ref_a, ref_b| -> Outcome<i16> {
        let mut swap = GnttabSwapGrantRef {
            ref_a,
            ref_b,
            status: 1,
            pad: 0,
        };
        call(abi::GNTTABOP_swap_grant_ref, &mut swap).because("swap_grant_ref")?;
        Ok(swap.status)
    };
    let before = (grants::entry(a)?, grants::entry(b)?);
    has(abi::GNTST_okay, swap(a, b)?, "a swap")?;
    let after = (grants::entry(b)?, grants::entry(a)?);
    ensure!(after == before, "swapped, {before:x?} reads {after:x?}");
    has(abi::GNTST_okay, swap(a, a)?, "an entry with itself")?;
    let size = grants::query_size()?;
    let beyond = GrantRef(size.nr_frames * GRANT_ENTRIES_PER_FRAME_V1);
    for wrong in [beyond, GrantRef(u32::MAX)] {
        has(
            abi::GNTST_bad_gntref,
            swap(a, wrong)?,
            "a swap with no entry",
        )?;
        has(
            abi::GNTST_bad_gntref,
            swap(wrong, wrong)?,
            "no entry with itself",
        )?;
    }
    let after = (grants::entry(b)?, grants::entry(a)?);
    ensure!(
        after == before,
        "wrong swaps change {before:x?} to {after:x?}"
    );
    ensure!(grants::end(a)? && grants::end(b)?, "an entry stays in use");
    Ok(())
}

/// Cache maintenance has nothing to do on x86, and looks at its arguments all the same.
pub(crate) fn cache_flush(_: &mut Probe) -> Outcome {
    /// `-EOPNOTSUPP`.
    const EOPNOTSUPP: Errno = Errno(95);
    let page = memory::page()?;
    let flush = |offset, length, op| {
        let mut flush = GnttabCacheFlush {
            a: page.addr(),
            offset,
            length,
            op,
        };
        call(abi::GNTTABOP_cache_flush, &mut flush)
    };
    flush(0, 64, abi::GNTTAB_CACHE_CLEAN).because("cache_flush")?;
    for (offset, length, op, due) in [
        (4096, 0, abi::GNTTAB_CACHE_CLEAN, Errno::EINVAL),
        (4090, 7, abi::GNTTAB_CACHE_CLEAN, Errno::EINVAL),
        (0, 64, 1 << 5, Errno::EINVAL),
        (0, 64, abi::GNTTAB_CACHE_INVAL, EOPNOTSUPP),
    ] {
        let errno = refused(flush(offset, length, op), "a wrong cache_flush")?;
        ensure!(
            errno == due,
            "cache_flush of {offset}+{length}, operation {op:#x}: {errno}, not {due}"
        );
    }
    Ok(())
}

/// A guest with frames of its own gives none away, and keeps what it has.
pub(crate) fn transfer(_: &mut Probe) -> Outcome {
    let page = memory::page()?;
    page.fill(0, PAGE_SIZE, |i| i);
    for domid in [DomId(0), DomId::SELF, NOBODY] {
        let mut transfer = GnttabTransfer {
            mfn: page.gfn().0,
            domid,
            pad: 0,
            gref: GrantRef(9),
            status: 1,
            pad2: [0; 3],
        };
        call(abi::GNTTABOP_transfer, &mut transfer).because("transfer")?;
        ensure!(
            transfer.status < 0,
            "a transfer to domain {domid} has status {}",
            transfer.status
        );
    }
    let word = page.word64(8 * 100).load(Ordering::Relaxed);
    ensure!(word == 100, "the page that was not given away holds {word}");
    Ok(())
}
