//! `grant_table_op`: a list of operations of one kind, each with a status of its own.

use cantle_abi::grant_table::{
    GNTST_bad_domain, GNTST_general_error, GNTST_okay, GNTST_permission_denied, GNTTABOP_copy,
    GNTTABOP_get_version, GNTTABOP_map_grant_ref, GNTTABOP_query_size, GNTTABOP_set_version,
    GNTTABOP_setup_table, GNTTABOP_unmap_grant_ref, GnttabCopy, GnttabGetVersion,
    GnttabMapGrantRef, GnttabQuerySize, GnttabSetVersion, GnttabSetupTable, GnttabUnmapGrantRef,
};
use cantle_abi::{DomId, Errno};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Call, Caller, Served};

/// The most operations in one call.
const MOST: u32 = 1 << 16;

pub(super) fn serve(caller: &Caller<'_>, call: &Call) -> Served {
    let (cmd, list, count) = (call.arg32(0), call.arg(1), call.arg32(2));
    if count > MOST {
        return Err(Errno::E2BIG);
    }
    match cmd {
        GNTTABOP_query_size | GNTTABOP_setup_table if count != 1 => Err(Errno::EINVAL),
        GNTTABOP_query_size => each(caller, list, 1, query_size),
        GNTTABOP_setup_table => each(caller, list, 1, setup_table),
        GNTTABOP_set_version => set_version(caller, list),
        GNTTABOP_copy => each(caller, list, count, |caller, op: &mut GnttabCopy| {
            caller.domain().tables.guest_copy(caller.domain().domid, op);
            Ok(())
        }),
        GNTTABOP_get_version => each(caller, list, count, |caller, op: &mut GnttabGetVersion| {
            if is_self(caller, op.dom) {
                op.version = caller.domain().grants.version();
                Ok(())
            } else {
                Err(Errno::EPERM)
            }
        }),
        // This guest maps no other's grants: there is nothing in its frame space to map them at.
        GNTTABOP_map_grant_ref => each(caller, list, count, |_, op: &mut GnttabMapGrantRef| {
            op.status = GNTST_permission_denied;
            Ok(())
        }),
        GNTTABOP_unmap_grant_ref => each(caller, list, count, |_, op: &mut GnttabUnmapGrantRef| {
            op.status = cantle_abi::grant_table::GNTST_bad_handle;
            Ok(())
        }),
        _ => Err(Errno::ENOSYS),
    }
}

/// Does an operation for each structure of a list, writing each back.
fn each<T: FromBytes + IntoBytes + Immutable>(
    caller: &Caller<'_>,
    list: u64,
    count: u32,
    op: impl Fn(&Caller<'_>, &mut T) -> Result<(), Errno>,
) -> Served {
    for index in 0..u64::from(count) {
        if caller.domain().has_ended() {
            break;
        }
        let at = Caller::element::<T>(list, index)?;
        let mut value: T = caller.read(at)?;
        op(caller, &mut value)?;
        caller.write(at, &value)?;
    }
    Ok(0)
}

fn is_self(caller: &Caller<'_>, dom: DomId) -> bool {
    dom.resolve(caller.domain().domid) == caller.domain().domid
}

/// The version in use is told also where the one that is wanted is refused.
fn set_version(caller: &Caller<'_>, at: u64) -> Served {
    let wanted: GnttabSetVersion = caller.read(at)?;
    let grants = &caller.domain().grants;
    let set = grants.set_version(wanted.version);
    let version = grants.version();
    caller.write(at, &GnttabSetVersion { version })?;
    set.map(|()| 0)
}

fn query_size(caller: &Caller<'_>, op: &mut GnttabQuerySize) -> Result<(), Errno> {
    let grants = &caller.domain().grants;
    op.status = if is_self(caller, op.dom) {
        op.nr_frames = grants.nr_frames();
        op.max_nr_frames = grants.max_frames();
        GNTST_okay
    } else {
        GNTST_bad_domain
    };
    Ok(())
}

/// Sizes the table. A translated guest learns no frame numbers: it places the frames itself by `XENMEM_add_to_physmap`.
fn setup_table(caller: &Caller<'_>, op: &mut GnttabSetupTable) -> Result<(), Errno> {
    op.status = if !is_self(caller, op.dom) {
        GNTST_bad_domain
    } else {
        match caller.domain().grants.grow(op.nr_frames) {
            Ok(()) if op.nr_frames == 0 || op.frame_list == 0 => GNTST_okay,
            Ok(()) => {
                for index in 0..op.nr_frames {
                    caller.write(
                        Caller::element::<u64>(op.frame_list, u64::from(index))?,
                        &u64::MAX,
                    )?;
                }
                GNTST_okay
            }
            Err(_) => GNTST_general_error,
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests;
