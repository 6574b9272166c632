//! `GNTTABOP_cache_flush`.

use cantle_abi::grant_table::{GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL, GnttabCacheFlush};
use cantle_abi::{Errno, PAGE_SIZE};

use crate::Tables;

impl Tables {
    /// `GNTTABOP_cache_flush`: looks at the arguments. On x86 memory is coherent, and there is nothing to do.
    ///
    /// Xen also looks whether the page is the caller's or mapped by it. Here a device address names no page, and what is not
    /// done harms nobody.
    ///
    /// # Errors
    ///
    /// As Xen: [`Errno::EINVAL`] for a range that is not within a page or an unknown operation, that by grant reference
    /// included, which Xen never had; [`Errno::EOPNOTSUPP`] for forgetting without writing back, which x86 does not let
    /// a guest do.
    pub fn guest_cache_flush(op: &GnttabCacheFlush) -> Result<(), Errno> {
        let (offset, length) = (usize::from(op.offset), usize::from(op.length));
        let known = GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL;
        if offset >= PAGE_SIZE || offset + length > PAGE_SIZE || op.op & !known != 0 {
            return Err(Errno::EINVAL);
        }
        if length != 0 && op.op == GNTTAB_CACHE_INVAL {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(())
    }
}
