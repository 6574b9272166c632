//! `GNTTABOP_transfer`: a page changes its domain.

use cantle_abi::grant_table::{GNTST_okay, GnttabTransfer};
use cantle_abi::{DomId, Gfn, PAGE_SIZE};

use crate::{GrantStatus, GrantTable, Tables};

impl Tables {
    /// `GNTTABOP_transfer` by guest `caller`: its frame goes to the domain that accepts it by an entry of its table.
    ///
    /// As grant_table.h has it: unless the status is `GNTST_bad_page`, the caller has lost the frame, also where nobody got it. In
    /// Xen only PV guests can do this; it is for the monitor to say who may.
    pub fn guest_transfer(&self, caller: DomId, op: &mut GnttabTransfer) {
        op.status = match self.try_transfer(caller, op) {
            Ok(()) => GNTST_okay,
            Err(status) => status.0,
        };
    }

    fn try_transfer(&self, caller: DomId, op: &GnttabTransfer) -> Result<(), GrantStatus> {
        let own = self.get(caller).ok_or(GrantStatus::BAD_DOMAIN)?;
        let space = own.maptrack().space().ok_or(GrantStatus::BAD_PAGE)?;
        let mut contents = [0; PAGE_SIZE];
        space.surrender(Gfn(op.mfn), &mut contents)?;
        let to = self.get(op.domid).ok_or(GrantStatus::BAD_DOMAIN)?;
        to.take_transfer(caller, op, &contents)
    }
}

impl GrantTable {
    /// Takes a page that `giver` gives, by an entry that accepts one from it.
    fn take_transfer(
        &self,
        giver: DomId,
        op: &GnttabTransfer,
        contents: &[u8; PAGE_SIZE],
    ) -> Result<(), GrantStatus> {
        let space = self.maptrack().space().ok_or(GrantStatus::GENERAL_ERROR)?;
        // The entry's lock is held throughout: it is this transfer's, and the version stays.
        let (entry, locked) = self.lock(op.gref).map_err(|_| GrantStatus::GENERAL_ERROR)?;
        if self.is_dying() || locked.pins.uses != 0 {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let gfn = entry.commit(giver).ok_or(GrantStatus::GENERAL_ERROR)?;
        let accepted = space.accept(gfn, contents);
        if accepted.is_ok() {
            entry.complete();
        }
        accepted.map_err(|_| GrantStatus::GENERAL_ERROR)
    }
}
