//! Entries that the toolstack fills before the guest runs.

use cantle_abi::grant_table::GTF_permit_access;
use cantle_abi::{DomId, Gfn, GrantRef};

use super::GrantTable;
use crate::GrantStatus;
use crate::entries::Part;

impl GrantTable {
    /// Writes an entry on the guest's behalf before it runs: what the toolstack does with the reserved ones.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::BAD_GNTREF`] beyond the table's end; [`GrantStatus::BAD_PAGE`] for a frame that is not the guest's memory or
    /// does not fit a version 1 entry; [`GrantStatus::GENERAL_ERROR`] while the entry is in use.
    pub fn seed(&self, gref: GrantRef, grantee: DomId, gfn: Gfn) -> Result<(), GrantStatus> {
        self.frame(gfn)?;
        let (entry, locked) = self.lock(gref)?;
        if locked.pins.uses != 0 {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        if entry.write(GTF_permit_access, grantee, gfn, Part::PAGE) {
            Ok(())
        } else {
            Err(GrantStatus::BAD_PAGE)
        }
    }
}
