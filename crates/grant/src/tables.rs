//! The grant tables of all domains of a host.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cantle_abi::DomId;

use crate::{GrantStatus, GrantTable, InUse};

/// The grant tables of all domains of a host, by number.
///
/// A domain that ends is taken out: nothing new is mapped or copied by its grants from then on, and a later domain of the
/// same number is another. What is mapped stays mapped, and keeps the memory.
#[derive(Debug, Default)]
pub struct Tables(RwLock<ByDomain>);

pub(crate) type ByDomain = BTreeMap<DomId, Arc<GrantTable>>;

/// What is left of a domain whose grants have ended.
#[derive(Debug)]
pub struct Ended {
    /// Its table, which no new use finds any more.
    pub table: Arc<GrantTable>,
    /// Which of its grants are in use still, and by whom: its memory stays until they are not.
    pub in_use: Vec<InUse>,
}

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

    /// Ends a domain's grants, and its own mappings of others' pages. Tells what others still use of it.
    pub fn remove(&self, dom: DomId) -> Option<Ended> {
        let table = self.write().remove(&dom)?;
        table.end();
        table.maptrack().close();
        let in_use = table.mapped();
        Some(Ended { table, in_use })
    }

    /// A domain's table.
    #[must_use]
    pub fn get(&self, dom: DomId) -> Option<Arc<GrantTable>> {
        self.read().get(&dom).cloned()
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, ByDomain> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ByDomain> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
