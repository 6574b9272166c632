//! The guest's grant table: what of it the configuration decides, and which of its pages the guest asks for by which number.

use std::sync::Arc;

use cantle_abi::grant_table::{GRANT_ENTRIES_PER_FRAME_V2, GRANT_STATUS_PER_FRAME};
use cantle_abi::memory::XENMAPIDX_grant_table_status;
use cantle_abi::{DomId, Errno};
use cantle_grant::{GrantTable, TableConfig, TablePages};
use kvm_ioctls::VmFd;

use crate::config::{GrantConfig, GuestKind};
use crate::error::SetupError;
use crate::kvm::grace::Grace;
use crate::memory::{GuestRam, HeapPage, Places};

/// Frames of entries whose status is in one status frame.
const FRAMES_PER_STATUS: u32 = GRANT_STATUS_PER_FRAME / GRANT_ENTRIES_PER_FRAME_V2;

/// What a guest's table may become.
const fn table(config: &GrantConfig) -> TableConfig {
    TableConfig {
        initial_frames: 1,
        max_frames: config.max_grant_frames,
        max_version: config.max_grant_version,
        max_maptrack_frames: config.max_maptrack_frames,
    }
}

/// A guest's memory, with room for its table.
pub(crate) fn memory(
    vm: Arc<VmFd>,
    places: Places,
    config: &GrantConfig,
    grace: Arc<Grace>,
) -> Result<Arc<GuestRam>, SetupError> {
    let pages = (config.max_grant_frames, table(config).status_frames());
    Ok(Arc::new(GuestRam::new(vm, places, pages, grace)?))
}

/// A guest's table, in the memory that [`memory`] made for it. What it maps goes there too.
pub(crate) fn create(
    domid: DomId,
    config: &GrantConfig,
    ram: &Arc<GuestRam>,
    kind: GuestKind,
) -> Result<Arc<GrantTable>, SetupError> {
    let status = ram.status_frames().map(|pages| Arc::new(pages) as _);
    let entries = Arc::new(ram.grant_frames());
    let pages = TablePages { entries, status };
    let grants = GrantTable::with_pages(domid, table(config), pages, ram.clone())
        .map_err(SetupError::host("the grant table"))?;
    // A PV guest would map others' pages by its own page tables, which is not served: it has no place for them.
    if kind == GuestKind::Pvh {
        grants.set_space(ram.clone());
    }
    Ok(grants)
}

/// The page that a guest means by an index of `XENMAPSPACE_grant_table`: a frame of its table, which grows where it is not that
/// large yet; with [`XENMAPIDX_grant_table_status`] a status frame, while the table has version 2 (memory.h).
///
/// # Errors
///
/// `EINVAL` where there can be no such page.
pub(crate) fn page(grants: &GrantTable, ram: &GuestRam, index: u64) -> Result<HeapPage, Errno> {
    let index = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
    let flag = u32::try_from(XENMAPIDX_grant_table_status).map_err(|_| Errno::EINVAL)?;
    let page = if index & flag == 0 {
        frame(grants, ram, index)
    } else {
        status_frame(grants, ram, index & !flag)
    };
    page.ok_or(Errno::EINVAL)
}

fn frame(grants: &GrantTable, ram: &GuestRam, index: u32) -> Option<HeapPage> {
    grants.grow(index.checked_add(1)?).ok()?;
    ram.grant_frame(index)
}

/// Its page is the table's whatever becomes of the version: a guest that goes back to version 1 meanwhile has placed a page that
/// nobody else ever uses (XSA-379).
fn status_frame(grants: &GrantTable, ram: &GuestRam, index: u32) -> Option<HeapPage> {
    if grants.version() != 2 {
        return None;
    }
    if index >= grants.nr_status_frames() {
        let all = index.checked_add(1)?.checked_mul(FRAMES_PER_STATUS)?;
        grants.grow(all.min(grants.max_frames())).ok()?;
    }
    let there = index < grants.nr_status_frames();
    there.then(|| ram.status_frame(index)).flatten()
}
