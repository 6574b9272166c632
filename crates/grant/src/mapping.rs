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
    gref: GrantRef,
    access: Access,
    held: Held,
}

/// What keeps the page, and gives it back when dropped.
enum Held {
    /// A pin in the granter's table.
    Pin(Arc<GrantTable>),
    /// The kernel's mapping of it.
    #[cfg(feature = "xen-device")]
    Device(crate::gntdev::Region),
    /// A page of a window, lent by a broker.
    #[cfg(feature = "process")]
    Lent(crate::process::Loan),
}

// SAFETY: the page is plain memory, whose owner (in `held`) is Send and Sync and keeps it mapped.
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
        table.count_maps(1);
        Ok(Self {
            page: page.ptr,
            gref,
            access,
            held: Held::Pin(table.clone()),
        })
    }

    /// A page that the kernel has mapped.
    #[cfg(feature = "xen-device")]
    pub(crate) fn of_device(region: crate::gntdev::Region, gref: GrantRef, access: Access) -> Self {
        Self {
            page: region.page(),
            gref,
            access,
            held: Held::Device(region),
        }
    }

    /// A page that a broker has lent.
    #[cfg(feature = "process")]
    pub(crate) fn of_loan(loan: crate::process::Loan, gref: GrantRef, access: Access) -> Self {
        Self {
            page: loan.page(),
            gref,
            access,
            held: Held::Lent(loan),
        }
    }

    /// Whose page it is.
    #[must_use]
    pub fn granter(&self) -> DomId {
        match &self.held {
            Held::Pin(table) => table.dom(),
            #[cfg(feature = "xen-device")]
            Held::Device(region) => region.granter(),
            #[cfg(feature = "process")]
            Held::Lent(loan) => loan.granter(),
        }
    }

    /// Whether its granter has ended, as far as this process knows: nothing of it is to be used for a later domain of that
    /// number.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &self.held {
            Held::Pin(table) => table.is_dying(),
            #[cfg(feature = "xen-device")]
            Held::Device(_) => false,
            // A window shows one domain's memory for as long as it is there: none of a later domain is ever lent by it.
            #[cfg(feature = "process")]
            Held::Lent(_) => false,
        }
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
        match &self.held {
            Held::Pin(table) => {
                table.unpin(self.gref, self.access.writes());
                table.count_unmaps(1);
            }
            #[cfg(feature = "xen-device")]
            Held::Device(_) => {}
            #[cfg(feature = "process")]
            Held::Lent(_) => {}
        }
    }
}

// SAFETY: the page came from `GuestFrames::frame`, which promises one aligned page that stays mapped while the frames' owner
// lives, and the table in `held` keeps that alive; or it is the kernel's mapping or the broker's loan, which `held` is.
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
