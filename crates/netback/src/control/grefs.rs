//! Static grants: pages that a front end has mapped once, to use them again and again.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_abi::io::netif::{
    XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER, XEN_NETIF_CTRL_STATUS_SUCCESS,
    XEN_NETIF_CTRLF_GREF_readonly, XenNetifGref,
};
use cantle_abi::{DomId, GrantRef, PAGE_SIZE};
use cantle_grant::{Access, GrantMapper, GrantStatus, Mapping};

/// How many grants of a queue stay mapped at most: two rings' worth, and what one list page names.
pub const STATIC_GRANTS_MAX: u32 = 512;

const _: () = assert!(STATIC_GRANTS_MAX as usize * size_of::<XenNetifGref>() <= PAGE_SIZE);

/// Why grants were not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrefFault {
    /// The device has no such queue.
    #[error("static grants for queue {queue} of {queues}")]
    Queue {
        /// The queue asked for.
        queue: u32,
        /// How many there are.
        queues: usize,
    },
    /// The list is longer than [`STATIC_GRANTS_MAX`].
    #[error("a list of {0} static grants")]
    ListSize(u32),
    /// So many more would be too many.
    #[error("{wanted} static grants beside {mapped}")]
    Full {
        /// How many are mapped.
        mapped: usize,
        /// How many are to be mapped as well.
        wanted: usize,
    },
    /// An entry has flags that mean nothing.
    #[error("flags {flags:#x} of static grant {gref}")]
    Flags {
        /// Which grant.
        gref: GrantRef,
        /// Its flags.
        flags: u16,
    },
    /// The grant is mapped already, or is in the list twice.
    #[error("static grant {0} twice")]
    Twice(GrantRef),
    /// The grant cannot be mapped.
    #[error("static grant {gref}: {status}")]
    Map {
        /// Which grant.
        gref: GrantRef,
        /// Why.
        status: GrantStatus,
    },
}

impl GrefFault {
    /// Its `XEN_NETIF_CTRL_STATUS_*`: the header knows one for them all.
    #[must_use]
    pub const fn status(&self) -> u16 {
        XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER
    }
}

/// The static grants of one queue, for both its rings: mapped by the control ring, used by the queue's threads.
///
/// A page that a thread holds stays mapped. One that none holds is unmapped as soon as its front end says so.
#[derive(Debug, Default)]
pub struct StaticGrants {
    /// How many there are; changed with the lock held.
    count: AtomicUsize,
    pages: Mutex<Pages>,
}

/// The hasher is seeded: a guest that chooses its grefs cannot make look-ups slow.
type Pages = HashMap<GrantRef, Arc<Mapping>>;

impl StaticGrants {
    /// None are mapped.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none: one atomic load. To be asked before [`lock`](Self::lock), for most front ends map none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Relaxed: who misses one that is being added takes the page by its grant, which is as good.
        self.count.load(Ordering::Relaxed) == 0
    }

    /// To look up several; none is mapped or unmapped meanwhile. To be held for a batch's look-ups at most.
    #[must_use]
    pub fn lock(&self) -> LockedGrants<'_> {
        LockedGrants(self.pages())
    }

    /// Maps what a list names: all of it, or on an error nothing. The entries' `status` is not used.
    ///
    /// # Errors
    ///
    /// As [`GrefFault`] says.
    pub fn add(
        &self,
        mapper: &dyn GrantMapper,
        granter: DomId,
        list: &[XenNetifGref],
    ) -> Result<(), GrefFault> {
        let wanted = self.check(list)?;
        let map = |&(gref, access)| {
            let mapped = mapper.map(granter, gref, access);
            mapped.map_err(|status| GrefFault::Map { gref, status })
        };
        // Without the lock: the queue's threads go on while pages are mapped.
        let mapped: Vec<_> = wanted.iter().map(map).collect::<Result<_, _>>()?;
        let mut pages = self.pages();
        // Looked at again: there is one control ring for a device, but nothing here depends on it.
        room(pages.len(), mapped.len())?;
        if let Some(twice) = mapped.iter().find(|page| pages.contains_key(&page.gref())) {
            return Err(GrefFault::Twice(twice.gref()));
        }
        pages.extend(mapped.into_iter().map(|page| (page.gref(), Arc::new(page))));
        self.count.store(pages.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Unmaps what a list names, as far as it is mapped and no thread holds it; each entry's `status` says whether. Returns how many
    /// were unmapped. When this returns their grants are in use no longer.
    #[must_use]
    pub fn remove(&self, list: &mut [XenNetifGref]) -> u32 {
        let mut removed = Vec::new();
        let mut pages = self.pages();
        for entry in list {
            entry.status = XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER;
            // With the lock held nobody takes another reference, so this one stays the only one.
            if let Entry::Occupied(page) = pages.entry(entry.gref)
                && Arc::strong_count(page.get()) == 1
            {
                removed.push(page.remove());
                entry.status = XEN_NETIF_CTRL_STATUS_SUCCESS;
            }
        }
        self.count.store(pages.len(), Ordering::Relaxed);
        drop(pages);
        u32::try_from(removed.len()).unwrap_or(u32::MAX)
    }

    /// Checks a list: what to map, and how.
    fn check(&self, list: &[XenNetifGref]) -> Result<Vec<(GrantRef, Access)>, GrefFault> {
        let pages = self.pages();
        room(pages.len(), list.len())?;
        let mut seen = HashSet::with_capacity(list.len());
        let check = |entry: &XenNetifGref| {
            let (gref, flags) = (entry.gref, entry.flags);
            if pages.contains_key(&gref) || !seen.insert(gref) {
                return Err(GrefFault::Twice(gref));
            }
            if flags & !XEN_NETIF_CTRLF_GREF_readonly != 0 {
                return Err(GrefFault::Flags { gref, flags });
            }
            let access = match flags & XEN_NETIF_CTRLF_GREF_readonly {
                0 => Access::ReadWrite,
                _ => Access::ReadOnly,
            };
            Ok((gref, access))
        };
        list.iter().map(check).collect()
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        // Nothing that is done with the lock held can leave it half done.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn room(mapped: usize, wanted: usize) -> Result<(), GrefFault> {
    let max = usize::try_from(STATIC_GRANTS_MAX).unwrap_or(usize::MAX);
    if wanted > max.saturating_sub(mapped) {
        return Err(GrefFault::Full { mapped, wanted });
    }
    Ok(())
}

/// The static grants of a queue, to look up several.
#[derive(Debug)]
pub struct LockedGrants<'a>(MutexGuard<'a, Pages>);

impl LockedGrants<'_> {
    /// The page of a grant, if it is mapped and may be accessed so. It stays mapped while the caller holds it, which should not be longer
    /// than a batch takes.
    #[must_use]
    pub fn get(&self, gref: GrantRef, access: Access) -> Option<Arc<Mapping>> {
        let page = self.0.get(&gref)?;
        let allowed = access == Access::ReadOnly || page.access() == Access::ReadWrite;
        allowed.then(|| page.clone())
    }
}

#[cfg(test)]
mod tests;
