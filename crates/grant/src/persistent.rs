//! Mappings that are kept for the next use.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cantle_abi::{DomId, GrantRef};

use crate::{Access, GrantMapper, GrantStatus, Mapping};

/// Mappings of grants that their guest uses again and again ("persistent grants"), kept up to a limit: the one that was
/// not used for longest goes first.
///
/// A grant that is kept is in use: its guest is told so, and cannot take it back until it is dropped here. A back end keeps
/// what its front end has agreed to, and nothing else. What is kept of a domain that has ended is never given for one that has
/// its number now. Every call's work is bounded; those that say so by the limit.
pub struct PersistentCache {
    limit: usize,
    by_grant: HashMap<(DomId, GrantRef), usize>,
    slots: Vec<Slot>,
    /// Most recently used, and least.
    ends: Option<(usize, usize)>,
    /// Pages that are kept no longer, until somebody has seen them; where somebody wants to.
    evicted: Option<Vec<Arc<Mapping>>>,
    stats: CacheStats,
}

/// What a [`PersistentCache`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Pages that were mapped already.
    pub hits: u64,
    /// Pages that were mapped and kept.
    pub misses: u64,
    /// Of those, mapped anew for writing.
    pub upgrades: u64,
    /// Pages dropped for others to be kept.
    pub evictions: u64,
}

struct Slot {
    key: (DomId, GrantRef),
    mapping: Arc<Mapping>,
    /// Towards more recently used, and towards less.
    newer: Option<usize>,
    older: Option<usize>,
}

impl PersistentCache {
    /// Keeps at most `limit` pages. With 0 every page is mapped anew.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            by_grant: HashMap::new(),
            slots: Vec::new(),
            ends: None,
            evicted: None,
            stats: CacheStats::default(),
        }
    }

    /// From now on, a page that is dropped for others stays mapped until [`take_evicted`](Self::take_evicted) gives it out: for those
    /// who have told somebody else of it, such as io_uring. To be taken after each [`map`](Self::map) that was a miss: nothing bounds them
    /// else.
    pub fn hold_evicted(&mut self) {
        self.evicted.get_or_insert_default();
    }

    /// The pages that were dropped for others since the last time.
    pub fn take_evicted(&mut self) -> impl Iterator<Item = Arc<Mapping>> + use<> {
        let evicted = self.evicted.as_mut().map(std::mem::take);
        evicted.unwrap_or_default().into_iter()
    }

    /// The page of a grant: as it is kept, or mapped by `mapper` and kept from now on. It stays mapped while the caller holds it, also
    /// where the cache has dropped it meanwhile.
    ///
    /// What is kept for reading is mapped anew for writing where that is asked for; the other way it is lent as it is.
    ///
    /// # Errors
    ///
    /// As [`GrantMapper::map`]; what was kept before is kept.
    pub fn map(
        &mut self,
        mapper: &dyn GrantMapper,
        granter: DomId,
        gref: GrantRef,
        access: Access,
    ) -> Result<Arc<Mapping>, GrantStatus> {
        let key = (granter, gref);
        let kept = self.by_grant.get(&key).copied();
        if let Some((at, slot)) = kept.and_then(|at| Some((at, self.slots.get(at)?))) {
            let mapping = &slot.mapping;
            if mapping.has_ended() {
                self.take(key);
            } else if access.writes() && !mapping.access().writes() {
                let mapping = Arc::new(mapper.map(granter, gref, access)?);
                self.stats.upgrades += 1;
                self.stats.misses += 1;
                self.take(key);
                self.keep(key, mapping.clone());
                return Ok(mapping);
            } else {
                let mapping = mapping.clone();
                self.stats.hits += 1;
                self.unlink(at);
                self.link(at);
                return Ok(mapping);
            }
        }
        let mapping = Arc::new(mapper.map(granter, gref, access)?);
        self.stats.misses += 1;
        self.keep(key, mapping.clone());
        Ok(mapping)
    }

    /// Drops the page of a grant; whether it was kept.
    pub fn forget(&mut self, granter: DomId, gref: GrantRef) -> bool {
        self.take((granter, gref)).is_some()
    }

    /// Drops all pages of a domain that ends, or goes: returns how many. Looks at every page that is kept.
    pub fn forget_granter(&mut self, granter: DomId) -> usize {
        let keys = self.by_grant.keys().copied();
        let keys: Vec<_> = keys.filter(|(dom, _)| *dom == granter).collect();
        keys.into_iter().filter_map(|key| self.take(key)).count()
    }

    /// Pages that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.stats
    }

    fn keep(&mut self, key: (DomId, GrantRef), mapping: Arc<Mapping>) {
        if self.limit == 0 {
            return;
        }
        while self.slots.len() >= self.limit {
            let oldest = self.ends.and_then(|(_, oldest)| self.slots.get(oldest));
            let Some(key) = oldest.map(|slot| slot.key) else {
                break;
            };
            let gone = self.take(key);
            if let Some(evicted) = &mut self.evicted {
                evicted.extend(gone);
            }
            self.stats.evictions += 1;
        }
        let at = self.slots.len();
        self.slots.push(Slot {
            key,
            mapping,
            newer: None,
            older: None,
        });
        self.by_grant.insert(key, at);
        self.link(at);
    }

    /// Takes a page out. The last slot moves to where it was.
    fn take(&mut self, key: (DomId, GrantRef)) -> Option<Arc<Mapping>> {
        let at = self.by_grant.remove(&key)?;
        self.unlink(at);
        let last = self.slots.len().checked_sub(1)?;
        if at >= self.slots.len() {
            return None;
        }
        let slot = self.slots.swap_remove(at);
        if let Some(moved) = self.slots.get(at) {
            let (newer, older) = (moved.newer, moved.older);
            self.by_grant.insert(moved.key, at);
            if let Some(newer) = newer.and_then(|n| self.slots.get_mut(n)) {
                newer.older = Some(at);
            }
            if let Some(older) = older.and_then(|n| self.slots.get_mut(n)) {
                older.newer = Some(at);
            }
            let renumber = |end| if end == last { at } else { end };
            self.ends = self.ends.map(|(a, b)| (renumber(a), renumber(b)));
        }
        Some(slot.mapping)
    }

    /// Puts a slot that is in no place into the first.
    fn link(&mut self, at: usize) {
        let first = self.ends.map(|(first, _)| first);
        if let Some(first) = first.and_then(|first| self.slots.get_mut(first)) {
            first.newer = Some(at);
        }
        if let Some(slot) = self.slots.get_mut(at) {
            (slot.newer, slot.older) = (None, first);
        }
        self.ends = Some((at, self.ends.map_or(at, |(_, last)| last)));
    }

    /// Takes a slot out of its place.
    fn unlink(&mut self, at: usize) {
        let Some(slot) = self.slots.get(at) else {
            return;
        };
        let (newer, older) = (slot.newer, slot.older);
        if let Some(newer) = newer.and_then(|n| self.slots.get_mut(n)) {
            newer.older = older;
        }
        if let Some(older) = older.and_then(|n| self.slots.get_mut(n)) {
            older.newer = newer;
        }
        self.ends = self.ends.and_then(|(first, last)| {
            let first = if first == at { older? } else { first };
            let last = if last == at { newer? } else { last };
            Some((first, last))
        });
    }
}

impl fmt::Debug for PersistentCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PersistentCache")
            .field("len", &self.len())
            .field("limit", &self.limit)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
