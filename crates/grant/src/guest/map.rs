//! `GNTTABOP_map_grant_ref`, `GNTTABOP_unmap_grant_ref` and `GNTTABOP_unmap_and_replace`: a guest has another's page in its own
//! address space.

use std::sync::Arc;

use cantle_abi::grant_table::{
    GNTMAP_application_map, GNTMAP_contains_pte, GNTMAP_device_map, GNTMAP_guest_avail_mask,
    GNTMAP_host_map, GNTMAP_readonly, GNTST_okay, GnttabMapGrantRef, GnttabUnmapAndReplace,
    GnttabUnmapGrantRef,
};
use cantle_abi::{DomId, Gfn};

use crate::maptrack::Unmap;
use crate::{Access, GrantStatus, GrantTable, GuestSpace, Mapping, Place, Tables};

impl GrantTable {
    /// Gives the guest the means to map others' pages and to transfer its own; false where it has them already.
    pub fn set_space(&self, space: Arc<dyn GuestSpace>) -> bool {
        self.maptrack().set_space(space)
    }

    /// How many mappings of others' pages the guest has now.
    #[must_use]
    pub fn maptracked(&self) -> usize {
        self.maptrack().count()
    }
}

impl Tables {
    /// `GNTTABOP_map_grant_ref` by guest `caller`.
    ///
    /// As Xen without an I/O MMU: a guest with frames of its own maps for the CPU only (`GNTMAP_host_map`, with or without
    /// `GNTMAP_readonly`), and is refused all other flags; a PV guest may have all of them, and is told the page's device
    /// address.
    pub fn guest_map(&self, caller: DomId, op: &mut GnttabMapGrantRef) {
        op.status = match self.try_map(caller, op) {
            Ok((handle, dev_bus_addr)) => {
                (op.handle, op.dev_bus_addr) = (handle, dev_bus_addr);
                GNTST_okay
            }
            Err(status) => status.0,
        };
    }

    fn try_map(&self, caller: DomId, op: &GnttabMapGrantRef) -> Result<(u32, u64), GrantStatus> {
        let own = self.get(caller).ok_or(GrantStatus::BAD_DOMAIN)?;
        let track = own.maptrack();
        let space = track.space().ok_or(GrantStatus::PERMISSION_DENIED)?;
        let (host, device) = wanted(op, space.is_translated())?;
        let table = self.get(op.dom).ok_or(GrantStatus::BAD_DOMAIN)?;
        let access = if op.flags & GNTMAP_readonly != 0 {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let pin = || Mapping::pin(&table, op.gref, caller, access);
        let (handle, mapping) = track.map(host, device, pin)?;
        Ok((handle, space.device_address(&mapping)))
    }

    /// `GNTTABOP_unmap_grant_ref` by guest `caller`. An address that is zero is passed over; what is left of the mapping then
    /// remains to be unmapped.
    ///
    /// An address at which this mapping is not is refused, and nothing is unmapped.
    pub fn guest_unmap(&self, caller: DomId, op: &mut GnttabUnmapGrantRef) {
        op.status = self.unmap(
            caller,
            &Unmap {
                handle: op.handle,
                host_addr: op.host_addr,
                dev_bus_addr: op.dev_bus_addr,
                new_addr: 0,
            },
        );
    }

    /// `GNTTABOP_unmap_and_replace` by guest `caller`: for PV guests; others have nothing to put in the place, and may
    /// use it without a `new_addr` only.
    pub fn guest_unmap_and_replace(&self, caller: DomId, op: &mut GnttabUnmapAndReplace) {
        op.status = self.unmap(
            caller,
            &Unmap {
                handle: op.handle,
                host_addr: op.host_addr,
                dev_bus_addr: 0,
                new_addr: op.new_addr,
            },
        );
    }

    fn unmap(&self, caller: DomId, op: &Unmap) -> i16 {
        // Not by the granter's number: that may be another domain's by now.
        let done = match self.get(caller) {
            Some(own) => own.maptrack().unmap(op),
            None => Err(GrantStatus::BAD_DOMAIN),
        };
        done.map_or_else(|status| status.0, |()| GNTST_okay)
    }
}

/// Where the page is to be, and whether for devices too, by the flags.
fn wanted(op: &GnttabMapGrantRef, translated: bool) -> Result<(Option<Place>, bool), GrantStatus> {
    let has = |flag| op.flags & flag != 0;
    if !has(GNTMAP_device_map | GNTMAP_host_map) {
        return Err(GrantStatus::BAD_GNTREF);
    }
    if translated {
        if op.flags & !GNTMAP_readonly != GNTMAP_host_map {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        return Ok((Some(Place::Frame(Gfn::of_addr(op.host_addr))), false));
    }
    let known = GNTMAP_device_map
        | GNTMAP_host_map
        | GNTMAP_readonly
        | GNTMAP_application_map
        | GNTMAP_contains_pte
        | GNTMAP_guest_avail_mask;
    if has(!known) {
        return Err(GrantStatus::GENERAL_ERROR);
    }
    let at = if has(GNTMAP_contains_pte) {
        Place::Entry(op.host_addr)
    } else {
        Place::Virtual(op.host_addr)
    };
    Ok((has(GNTMAP_host_map).then_some(at), has(GNTMAP_device_map)))
}
