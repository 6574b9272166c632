//! A granted page, mapped.

// UNSAFETY: a mapping vouches for another domain's memory.
#![expect(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use cantle_abi::{DomId, GrantRef, PAGE_SIZE, SharedMemory};

use crate::entries::KIND_FOR_MAP;
use crate::{Access, GrantStatus, GrantTable};

/// One page that another domain granted. The grant is in use until this is dropped.
///
/// It keeps the page's memory alive, also when its domain has ended meanwhile (in Xen such a domain is a zombie). A page
/// mapped [`Access::ReadOnly`] must not be written.
pub struct Mapping {
    page: NonNull<u8>,
    table: Arc<GrantTable>,
    gref: GrantRef,
    access: Access,
}

// SAFETY: the page is plain memory, whose owner (in `table`) is Send and Sync and keeps it mapped.
unsafe impl Send for Mapping {}
// SAFETY: as above; it is reached only by volatile and atomic accesses.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Pins the page in the process that has its memory.
    pub(crate) fn pin(
        table: &Arc<GrantTable>,
        gref: GrantRef,
        grantee: DomId,
        access: Access,
    ) -> Result<Self, GrantStatus> {
        let page = table.pin(gref, grantee, access.writes(), KIND_FOR_MAP)?;
        table.count_map();
        Ok(Self {
            page,
            table: table.clone(),
            gref,
            access,
        })
    }

    /// Whose page it is.
    #[must_use]
    pub fn granter(&self) -> DomId {
        self.table.dom()
    }

    /// By which grant.
    #[must_use]
    pub fn gref(&self) -> GrantRef {
        self.gref
    }

    /// What may be done with it.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.table.unpin(self.gref, self.access.writes());
        self.table.count_unmap();
    }
}

// SAFETY: the page came from `GuestFrames::frame`, which promises one aligned page that stays mapped while the frames' owner
// lives; `table` keeps that alive.
unsafe impl SharedMemory for Mapping {
    fn as_ptr(&self) -> NonNull<u8> {
        self.page
    }

    fn len(&self) -> usize {
        PAGE_SIZE
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("granter", &self.granter())
            .field("gref", &self.gref)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}
