//! A guest's own address space, as far as grants change it.

use std::sync::Arc;

use cantle_abi::{Gfn, PAGE_SIZE};

use crate::{GrantStatus, Mapping};

/// Where a guest wants a granted page to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// At a frame of its own: guests with frames of their own (HVM, PVH).
    Frame(Gfn),
    /// At a virtual address: guests that use Xen's page tables (PV).
    Virtual(u64),
    /// In the page table entry at this machine address (`GNTMAP_contains_pte`; PV).
    Entry(u64),
}

/// A guest's address space, as far as grants change it: where it maps others' pages, and how its frames come and go. Implemented
/// by the monitor, and given to [`GrantTable::set_space`](crate::GrantTable::set_space); a guest without one maps nothing and
/// transfers nothing.
///
/// Every method may be called from any of the guest's vCPUs, one at a time for `place`, `remove` and `replace`.
pub trait GuestSpace: Send + Sync {
    /// Whether the guest has frames of its own, so that only [`Place::Frame`] is asked for, and none of the flags that PV guests
    /// alone have: Xen refuses those to all others.
    fn is_translated(&self) -> bool {
        true
    }

    /// Puts a page at a place where nothing is: for reading only where the mapping is. The implementor keeps the mapping until
    /// [`remove`](Self::remove), since the guest uses its memory.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::GENERAL_ERROR`] where it cannot be there; nothing has changed then.
    fn place(&self, at: Place, page: &Arc<Mapping>) -> Result<(), GrantStatus>;

    /// Takes away the page that [`place`](Self::place) put there: the guest cannot use it any more when this returns.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::GENERAL_ERROR`]: the page is still there, and counts as mapped.
    fn remove(&self, at: Place) -> Result<(), GrantStatus>;

    /// As [`remove`](Self::remove), and puts what the guest has mapped at `new_addr` there instead (`GNTTABOP_unmap_and_replace`; PV).
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    fn replace(&self, at: Place, new_addr: u64) -> Result<(), GrantStatus> {
        let _ = (at, new_addr);
        Err(GrantStatus::GENERAL_ERROR)
    }

    /// What the guest's devices call a page (PV without an I/O MMU: its machine address).
    fn device_address(&self, page: &Mapping) -> u64 {
        let _ = page;
        0
    }

    /// Takes a frame of RAM from the guest, with its contents.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::BAD_PAGE`] where it has no such frame; nothing has changed then.
    fn surrender(&self, gfn: Gfn, contents: &mut [u8; PAGE_SIZE]) -> Result<(), GrantStatus>;

    /// Gives the guest a frame of RAM where it has none, with contents.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::GENERAL_ERROR`] where there cannot be one, or is one already.
    fn accept(&self, gfn: Gfn, contents: &[u8; PAGE_SIZE]) -> Result<(), GrantStatus>;
}
