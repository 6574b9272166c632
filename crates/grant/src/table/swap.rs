//! Exchanging two entries.

use cantle_abi::GrantRef;

use super::GrantTable;
use crate::GrantStatus;

impl GrantTable {
    /// Exchanges two entries (`GNTTABOP_swap_grant_ref`). An entry and itself is nothing to do.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::BAD_GNTREF`] beyond the table's end; [`GrantStatus::EAGAIN`] while either is in use.
    pub fn swap(&self, a: GrantRef, b: GrantRef) -> Result<(), GrantStatus> {
        if a == b {
            return self.lock(a).map(drop);
        }
        // Locks are taken in ascending order.
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        let (low, low_locked) = self.lock(low)?;
        let (high, high_locked) = self.lock(high)?;
        if low_locked.pins.uses != 0 || high_locked.pins.uses != 0 {
            return Err(GrantStatus::EAGAIN);
        }
        // Nobody uses them, so there are no marks worth keeping.
        let (was_low, was_high) = (low.raw(), high.raw());
        low.put(&was_high);
        high.put(&was_low);
        Ok(())
    }
}
