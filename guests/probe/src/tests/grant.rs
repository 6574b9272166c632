//! The grant table as the guest sees it. That grants work is shown by the devices.

pub(super) mod calls;
pub(super) mod copy;
pub(super) mod map;

use cantle_abi::grant_table::{self as abi, GTF_permit_access, GnttabGetVersion};
use cantle_abi::xen::__HYPERVISOR_grant_table_op;
use cantle_abi::{DomId, Errno};
use zerocopy::{FromBytes, IntoBytes};

use crate::report::{Because as _, Outcome, refused};
use crate::{Probe, ensure, grants, hypercall, memory, say};

/// A domain that there is not.
const NOBODY: DomId = DomId(0x7ff3);

/// A call with one operation.
fn call<T: FromBytes + IntoBytes>(command: u32, op: &mut T) -> Result<u64, Errno> {
    let ops = core::slice::from_mut(op);
    hypercall::op_many(__HYPERVISOR_grant_table_op, command, ops)
}

/// The status is the one that Xen returns.
fn has(expected: i16, status: i16, what: &str) -> Outcome {
    ensure!(
        status == expected,
        "{what}: status {status}, not {expected}"
    );
    Ok(())
}

pub(super) fn table(_: &mut Probe) -> Outcome {
    let size = grants::query_size()?;
    ensure!(
        size.max_nr_frames >= 4 && size.nr_frames <= size.max_nr_frames,
        "{} of {} frames",
        size.nr_frames,
        size.max_nr_frames
    );
    let mut version = [GnttabGetVersion {
        dom: DomId::SELF,
        pad: 0,
        version: 0,
    }];
    hypercall::op_many(
        __HYPERVISOR_grant_table_op,
        abi::GNTTABOP_get_version,
        &mut version,
    )
    .because("GNTTABOP_get_version")?;
    ensure!(
        version[0].version == 1,
        "the table has version {}",
        version[0].version
    );
    grants::prepare()?;
    let beyond = u64::from(size.max_nr_frames);
    let hole = cantle_abi::Gfn(0xfe900);
    refused(
        grants::map_frame(beyond, hole),
        "a frame beyond the table's limit",
    )?;

    // The toolstack's own entries: console and xenstore, lent to whoever serves them.
    for gref in [abi::GNTTAB_RESERVED_CONSOLE, abi::GNTTAB_RESERVED_XENSTORE] {
        let (flags, frame) = grants::entry(gref)?;
        say!("probe: grant-table: entry {gref} is {flags:#x}, frame {frame:#x}");
    }

    // An entry that is written reads back, and can be taken back.
    let page = memory::page()?;
    let gref = grants::grant(&page, DomId(0), false)?;
    let (flags, frame) = grants::entry(gref)?;
    ensure!(
        flags == u32::from(GTF_permit_access) && u64::from(frame) == page.gfn().0,
        "the entry reads {flags:#x}, frame {frame:#x}"
    );
    ensure!(grants::end(gref)?, "an entry that nobody uses is in use");
    Ok(())
}
