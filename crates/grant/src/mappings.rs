//! Pages of one granter, mapped and given back together.

// UNSAFETY: a mapped page vouches for another domain's memory.
#![expect(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use cantle_abi::{DomId, GrantRef, PAGE_SIZE, SharedMemory};

use crate::entries::KIND_FOR_MAP;
use crate::{Access, GrantMapper, GrantStatus, GrantTable, Mapping};

/// Pages of one granter that were mapped by one [`GrantMapper::map_all`], each with an outcome of its own. All grants are in use
/// until this is dropped.
///
/// It is what [`Mapping`] is for one page, and costs less for each.
#[derive(Default)]
pub struct Mappings {
    pages: Vec<Result<MappedPage, GrantStatus>>,
    held: Held,
}

/// What keeps the pages, and gives them back.
#[derive(Default)]
enum Held {
    /// Each has a mapping of its own.
    #[default]
    Each,
    /// Pins in the granter's table.
    Pins(Arc<GrantTable>),
    /// Loans of a broker.
    #[cfg(feature = "process")]
    Loans(crate::process::Loans),
}

/// One page of [`Mappings`].
pub struct MappedPage {
    page: NonNull<u8>,
    gref: GrantRef,
    access: Access,
    /// Where the page was mapped by itself.
    alone: Option<Mapping>,
}

// SAFETY: the page is plain memory, whose owner (the table of its `Mappings`, or `alone`) is Send and Sync and keeps it mapped.
unsafe impl Send for MappedPage {}
// SAFETY: as above; it is reached only by volatile and atomic accesses.
unsafe impl Sync for MappedPage {}

impl Mappings {
    /// Pins each of the pages in the process that has their memory.
    pub(crate) fn pin(
        table: &Arc<GrantTable>,
        grantee: DomId,
        wanted: &[(GrantRef, Access)],
    ) -> Self {
        let mut mapped = 0;
        let pages = wanted.iter().map(|&(gref, access)| {
            let page = table.pin(gref, grantee, access.writes(), KIND_FOR_MAP)?;
            mapped += 1;
            Ok(MappedPage {
                page: page.ptr,
                gref,
                access,
                alone: None,
            })
        });
        let pages = pages.collect();
        table.count_maps(mapped);
        Self {
            pages,
            held: Held::Pins(table.clone()),
        }
    }

    /// Maps each of the pages by itself.
    pub(crate) fn one_by_one(
        mapper: &(impl GrantMapper + ?Sized),
        granter: DomId,
        wanted: &[(GrantRef, Access)],
    ) -> Self {
        let pages = wanted.iter().map(|&(gref, access)| {
            let mapping = mapper.map(granter, gref, access)?;
            Ok(MappedPage {
                page: mapping.as_ptr(),
                gref,
                access,
                alone: Some(mapping),
            })
        });
        Self {
            pages: pages.collect(),
            held: Held::Each,
        }
    }

    /// Pages that a broker has lent together.
    #[cfg(feature = "process")]
    pub(crate) fn of_loans(
        pages: Vec<Result<MappedPage, GrantStatus>>,
        loans: crate::process::Loans,
    ) -> Self {
        Self {
            pages,
            held: Held::Loans(loans),
        }
    }

    /// None of the pages was mapped, and all for the same reason.
    pub(crate) fn refused(status: GrantStatus, count: usize) -> Self {
        let pages = (0..count).map(|_| Err(status)).collect();
        Self {
            pages,
            held: Held::Each,
        }
    }

    /// How many pages were asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// What became of the `index`th page; [`GrantStatus::BAD_HANDLE`] beyond the last.
    ///
    /// # Errors
    ///
    /// As [`GrantMapper::map`] for that page.
    pub fn get(&self, index: usize) -> Result<&MappedPage, GrantStatus> {
        match self.pages.get(index) {
            Some(Ok(page)) => Ok(page),
            Some(Err(status)) => Err(*status),
            None => Err(GrantStatus::BAD_HANDLE),
        }
    }

    /// What became of each page, in the order they were asked for.
    pub fn iter(&self) -> impl Iterator<Item = Result<&MappedPage, GrantStatus>> {
        self.pages
            .iter()
            .map(|page| page.as_ref().map_err(|status| *status))
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        let Held::Pins(table) = &self.held else {
            return;
        };
        let mut unmapped = 0;
        for page in self.pages.iter().flatten() {
            table.unpin(page.gref, page.access.writes());
            unmapped += 1;
        }
        table.count_unmaps(unmapped);
    }
}

impl MappedPage {
    /// One of [`Mappings::of_loans`].
    #[cfg(feature = "process")]
    pub(crate) fn lent(page: NonNull<u8>, gref: GrantRef, access: Access) -> Self {
        Self {
            page,
            gref,
            access,
            alone: None,
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

// SAFETY: the page came from `GuestFrames::frame`, which promises one aligned page that stays mapped while the frames' owner
// lives; the `Mappings` that lends this keeps the table, and that the frames. Or it is the mapping in `alone`, or one of the loans
// that the `Mappings` keeps, which promise the same.
unsafe impl SharedMemory for MappedPage {
    fn as_ptr(&self) -> NonNull<u8> {
        self.page
    }

    fn len(&self) -> usize {
        PAGE_SIZE
    }
}

impl fmt::Debug for MappedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedPage")
            .field("gref", &self.gref)
            .field("access", &self.access)
            .field("alone", &self.alone.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Mappings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let granter = match &self.held {
            Held::Each => None,
            Held::Pins(table) => Some(table.dom()),
            #[cfg(feature = "process")]
            Held::Loans(loans) => Some(loans.granter()),
        };
        f.debug_struct("Mappings")
            .field("granter", &granter)
            .field("pages", &self.pages)
            .finish()
    }
}
