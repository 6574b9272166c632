//! The grant tables of all domains of a host.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cantle_abi::grant_table::{
    GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTST_okay, GnttabCopy, GnttabCopyPtr,
};
use cantle_abi::{DomId, Gfn, GrantRef};

use crate::copy::{End, Pinned, copy_pages, within_page};
use crate::{GrantStatus, GrantTable};

/// The grant tables of all domains of a host, by number.
///
/// A domain that ends is taken out: nothing new is mapped or copied by its grants from then on, and a later domain of the
/// same number is another. What is mapped stays mapped, and keeps the memory.
#[derive(Debug, Default)]
pub struct Tables(RwLock<ByDomain>);

pub(crate) type ByDomain = BTreeMap<DomId, Arc<GrantTable>>;

impl Tables {
    /// No domain yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a domain's table.
    ///
    /// # Errors
    ///
    /// [`GrantStatus::BAD_DOMAIN`] where the domain has one already, or its number is no domain's.
    pub fn insert(&self, table: Arc<GrantTable>) -> Result<(), GrantStatus> {
        if !table.dom().is_real() {
            return Err(GrantStatus::BAD_DOMAIN);
        }
        match self.write().entry(table.dom()) {
            Entry::Vacant(entry) => {
                entry.insert(table);
                Ok(())
            }
            Entry::Occupied(_) => Err(GrantStatus::BAD_DOMAIN),
        }
    }

    /// Ends a domain's grants. The table is returned, so that one can ask what is [`mapped`](GrantTable::mapped) still.
    pub fn remove(&self, dom: DomId) -> Option<Arc<GrantTable>> {
        let table = self.write().remove(&dom)?;
        table.end();
        Some(table)
    }

    /// A domain's table.
    #[must_use]
    pub fn get(&self, dom: DomId) -> Option<Arc<GrantTable>> {
        self.read().get(&dom).cloned()
    }

    /// `GNTTABOP_copy` of one piece by guest `caller`: between granted pages and its own frames, in all four forms. `op.status` says
    /// what became of it.
    ///
    /// `op` is a copy of what the guest passed. A piece without bytes is done without looking at anything.
    pub fn guest_copy(&self, caller: DomId, op: &mut GnttabCopy) {
        op.status = match self.try_guest_copy(caller, op) {
            Ok(()) => GNTST_okay,
            Err(status) => status.0,
        };
    }

    fn try_guest_copy(&self, caller: DomId, op: &GnttabCopy) -> Result<(), GrantStatus> {
        if op.len == 0 {
            return Ok(());
        }
        let len = usize::from(op.len);
        within_page(op.source.offset, len)?;
        within_page(op.dest.offset, len)?;
        let tables = self.read();
        // Each end is found and pinned by itself: nothing learnt of one is used for the other (XSA-500, CVE-2026-102703).
        let source_gref = op.flags & GNTCOPY_source_gref != 0;
        let source = end(&tables, caller, &op.source, source_gref, false)?;
        let dest_gref = op.flags & GNTCOPY_dest_gref != 0;
        let dest = end(&tables, caller, &op.dest, dest_gref, true)?;
        copy_pages(&source, op.source.offset, &dest, op.dest.offset, len)?;
        source.count(u64::from(op.len));
        dest.count(u64::from(op.len));
        Ok(())
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, ByDomain> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ByDomain> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds one end of a guest's copy.
fn end<'a>(
    tables: &'a ByDomain,
    caller: DomId,
    at: &GnttabCopyPtr,
    is_gref: bool,
    write: bool,
) -> Result<End<'a>, GrantStatus> {
    // A frame can be named in the caller's own memory only, and only as its own.
    if !is_gref && at.domid != DomId::SELF {
        return Err(GrantStatus::PERMISSION_DENIED);
    }
    let table = tables
        .get(&at.domid.resolve(caller))
        .ok_or(GrantStatus::BAD_DOMAIN)?;
    if is_gref {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a reference is the union's low half"
        )]
        let gref = GrantRef(at.u as u32);
        Ok(End::Granted(Pinned::new(table, gref, caller, write)?))
    } else {
        Ok(End::Own {
            _table: table,
            page: table.frame(Gfn(at.u))?,
        })
    }
}
