//! Calls as tests make them: one operation, and what became of it.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use cantle_abi::grant_table::{GnttabMapGrantRef, GnttabUnmapGrantRef};
use cantle_abi::{DomId, GrantRef};

use crate::{CopyPiece, GrantMapper, GrantStatus, Local, Tables};

/// A status that no operation has: it was not written.
const UNWRITTEN: i16 = 99;

/// Copies one piece.
///
/// # Errors
///
/// The piece's status.
pub fn copy_one(
    mapper: &impl GrantMapper,
    granter: DomId,
    gref: GrantRef,
    offset: u16,
    local: Local<'_>,
) -> Result<(), GrantStatus> {
    let mut piece = CopyPiece {
        granter,
        gref,
        offset,
        local,
        status: Err(GrantStatus::EAGAIN),
    };
    mapper.copy(std::slice::from_mut(&mut piece));
    piece.status
}

/// A guest's `GNTTABOP_map_grant_ref` as it is before it is made: what it answers with is something else yet.
#[must_use]
pub fn map_op(granter: DomId, gref: GrantRef, host_addr: u64, flags: u32) -> GnttabMapGrantRef {
    GnttabMapGrantRef {
        host_addr,
        flags,
        gref,
        dom: granter,
        status: UNWRITTEN,
        handle: u32::MAX,
        dev_bus_addr: 77,
    }
}

/// Guest `grantee` makes a [`map_op`].
#[must_use]
pub fn map(tables: &Tables, grantee: DomId, mut op: GnttabMapGrantRef) -> GnttabMapGrantRef {
    tables.guest_map(grantee, &mut op);
    op
}

/// Guest `grantee`'s `GNTTABOP_unmap_grant_ref`; its status.
pub fn unmap(
    tables: &Tables,
    grantee: DomId,
    handle: u32,
    host_addr: u64,
    dev_bus_addr: u64,
) -> i16 {
    let mut op = GnttabUnmapGrantRef {
        host_addr,
        dev_bus_addr,
        handle,
        status: UNWRITTEN,
        pad: 0,
    };
    tables.guest_unmap(grantee, &mut op);
    op.status
}

/// Stops the other threads when the test's own part is done, or has failed.
#[derive(Debug)]
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
