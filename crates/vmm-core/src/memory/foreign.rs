//! Other domains' pages in the guest's physical memory: mapped grants.

use std::sync::Arc;

use cantle_abi::{Gfn, PAGE_SIZE, SharedMemory};
use cantle_grant::{Access, GrantStatus, GuestSpace, Mapping, Place};
use kvm_bindings::KVM_MEM_READONLY;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{GuestRam, set_slot};

/// A page of another domain.
#[derive(Debug)]
pub(super) struct Foreign {
    slot: u32,
    /// Keeps the memory that the slot leads to.
    page: Arc<Mapping>,
}

/// Where there is neither RAM nor a page of the host, a granted page gets a memory slot of its own; a read-only one is read-only
/// to the guest too. Over RAM it cannot be: this process reaches RAM by address, for others as well, and would reach what
/// the guest may not. For the same reason nothing there can be an argument of a hypercall, or be granted on.
impl GuestSpace for GuestRam {
    fn place(&self, at: Place, page: &Arc<Mapping>) -> Result<(), GrantStatus> {
        let gfn = frame(at)?;
        let addr = gfn.addr().ok_or(GrantStatus::GENERAL_ERROR)?;
        let mut map = self.lock();
        let taken = self.memory.find_region(GuestAddress(addr)).is_some()
            || map.placed.contains_key(&gfn.0)
            || map.foreign.contains_key(&gfn.0);
        if taken {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let flags = match page.access() {
            Access::ReadOnly => KVM_MEM_READONLY,
            Access::ReadWrite => 0,
        };
        let slot = map.take_slot();
        let host = page.as_ptr().as_ptr();
        let set = || set_slot(&self.vm, (slot, flags), addr, PAGE_SIZE as u64, host);
        if self.grace.during(set).is_err() {
            map.free_slots.push(slot);
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let page = page.clone();
        map.foreign.insert(gfn.0, Foreign { slot, page });
        Ok(())
    }

    fn remove(&self, at: Place) -> Result<(), GrantStatus> {
        let gfn = frame(at)?;
        let addr = gfn.addr().ok_or(GrantStatus::GENERAL_ERROR)?;
        let mut map = self.lock();
        let foreign = map.foreign.get(&gfn.0).ok_or(GrantStatus::GENERAL_ERROR)?;
        let (slot, host) = (foreign.slot, foreign.page.as_ptr().as_ptr());
        self.grace
            .during(|| set_slot(&self.vm, (slot, 0), addr, 0, host))
            .map_err(|_| GrantStatus::GENERAL_ERROR)?;
        map.free_slots.push(slot);
        let foreign = map.foreign.remove(&gfn.0);
        drop(map);
        // Its own lock is held no more: this may be the last that keeps another domain.
        drop(foreign);
        Ok(())
    }

    /// As Xen, for guests with frames of their own: they transfer none.
    fn surrender(&self, _: Gfn, _: &mut [u8; PAGE_SIZE]) -> Result<(), GrantStatus> {
        Err(GrantStatus::GENERAL_ERROR)
    }

    /// As [`surrender`](Self::surrender).
    fn accept(&self, _: Gfn, _: &[u8; PAGE_SIZE]) -> Result<(), GrantStatus> {
        Err(GrantStatus::GENERAL_ERROR)
    }
}

fn frame(at: Place) -> Result<Gfn, GrantStatus> {
    match at {
        Place::Frame(gfn) => Ok(gfn),
        _ => Err(GrantStatus::GENERAL_ERROR),
    }
}
