//! Which port each address is behind.
//!
//! Readers on the hot path keep entries of their own ([`Cache`]), whose port is an atomic that a move or removal changes in place:
//! an entry that is no longer in the table says so. Only what is not kept is looked up, under a lock that a 64th of all
//! addresses share, for reading. Writers are first sights, moves and removals.

mod cache;
mod entry;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) use cache::Cache;
pub use entry::Address;
pub(crate) use entry::{Entry, GONE, Key, Owner};
use entry::{Held, reserve};

use crate::port::PortId;

const SHARDS: usize = 64;
/// Old entries are looked for at least so often when new ones come, in seconds.
const SWEEP_EVERY: u64 = 10;

type Shard = HashMap<Key, Held>;

/// What became of an address that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// It is behind the port that it was seen at.
    Here,
    /// As above, and was elsewhere before.
    Moved,
    /// It moves too often.
    Flapping,
    /// There is no room.
    Full,
    /// It is another port's, and stays so.
    Elsewhere,
    /// The learner's idea of the port is out of date.
    Late,
}

#[derive(Debug)]
pub(crate) struct Table {
    shards: [RwLock<Shard>; SHARDS],
    /// Odd; picks the shard, so that nobody outside can aim at one.
    secret: u64,
    used: AtomicUsize,
    capacity: usize,
    age: u64,
    moves_max: u32,
    swept: AtomicU64,
}

impl Table {
    pub(crate) fn new(capacity: usize, age: u64, moves_max: u32) -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            secret: RandomState::new().hash_one(0) | 1,
            used: AtomicUsize::new(0),
            capacity,
            age: age.max(1),
            moves_max,
            swept: AtomicU64::new(0),
        }
    }

    fn shard(&self, key: Key) -> &RwLock<Shard> {
        let at = key.0.wrapping_mul(self.secret) >> 58;
        let at = usize::try_from(at).unwrap_or(0) % SHARDS;
        // The remainder is below the array's length.
        &self.shards[at]
    }

    /// Whether it has not been heard of for too long.
    pub(crate) fn expired(&self, entry: &Entry, now: u64) -> bool {
        !entry.fixed && now.saturating_sub(entry.seen.load(Ordering::Relaxed)) > self.age
    }

    fn find(&self, key: Key) -> Option<Arc<Entry>> {
        read(self.shard(key))
            .get(&key)
            .map(|held| held.entry.clone())
    }

    /// Notes that `key` was seen at `owner`'s port, as known at `epoch`, in the second `now`. Takes no writer's lock where there is nothing to write.
    pub(crate) fn learn(&self, key: Key, owner: &Arc<Owner>, epoch: u64, now: u64) -> Learned {
        let known = self.find(key);
        let mine = known
            .as_ref()
            .is_some_and(|entry| entry.place() == Some(owner.id));
        let fits = || {
            owner.has_room()
                && (known.is_some() || self.used.load(Ordering::Relaxed) < self.capacity)
        };
        let swept = self.swept.load(Ordering::Relaxed);
        if !mine && (now >= swept.saturating_add(SWEEP_EVERY) || (now > swept && !fits())) {
            self.sweep(now);
        }
        if !mine && known.as_ref().is_none_or(|entry| !entry.fixed) && !fits() {
            return Learned::Full;
        }
        let mut shard = write(self.shard(key));
        if owner.epoch.load(Ordering::Acquire) != epoch {
            return Learned::Late;
        }
        let Some(held) = shard.get_mut(&key) else {
            return self.first_sight(&mut shard, key, owner, now);
        };
        let here = held.owner.id == owner.id;
        match (held.entry.fixed, here) {
            (true, true) => return Learned::Here,
            (true, false) => return Learned::Elsewhere,
            (false, true) => {
                held.entry.touch(now);
                return Learned::Here;
            }
            (false, false) => {}
        }
        let old = self.expired(&held.entry, now);
        let moves = if held.window == now { held.moves } else { 0 };
        if !old && moves >= self.moves_max {
            return Learned::Flapping;
        }
        if !owner.reserve() {
            return Learned::Full;
        }
        held.owner.used.fetch_sub(1, Ordering::Relaxed);
        held.owner = owner.clone();
        held.window = now;
        held.moves = if old { 0 } else { moves.saturating_add(1) };
        held.entry.touch(now);
        held.entry.place.store(owner.id.0, Ordering::Release);
        if old { Learned::Here } else { Learned::Moved }
    }

    fn first_sight(&self, shard: &mut Shard, key: Key, owner: &Arc<Owner>, now: u64) -> Learned {
        if !owner.reserve() {
            return Learned::Full;
        }
        if !reserve(&self.used, self.capacity) {
            owner.used.fetch_sub(1, Ordering::Relaxed);
            return Learned::Full;
        }
        shard.insert(key, Held::new(owner, now, false));
        Learned::Here
    }

    /// Puts an address where it is to stay. It takes no share of the table's bound. False where the port is gone.
    pub(crate) fn fix(&self, key: Key, owner: &Arc<Owner>, now: u64) -> bool {
        let mut shard = write(self.shard(key));
        if owner.epoch.load(Ordering::Acquire) == GONE {
            return false;
        }
        if let Some(old) = shard.insert(key, Held::new(owner, now, true)) {
            self.let_go(&old);
        }
        true
    }

    /// Takes a static address away; false where there was none.
    pub(crate) fn unfix(&self, key: Key) -> bool {
        let mut shard = write(self.shard(key));
        let fixed = shard.get(&key).is_some_and(|held| held.entry.fixed);
        if let Some(old) = fixed.then(|| shard.remove(&key)).flatten() {
            self.let_go(&old);
        }
        fixed
    }

    /// Forgets what was learned behind a port; and its static addresses, where it is gone.
    pub(crate) fn forget(&self, id: PortId, gone: bool) {
        self.retain(|held| held.owner.id != id || (held.entry.fixed && !gone));
    }

    /// Forgets whom nobody has heard of for too long. Bounded by the table; at most once in a second.
    fn sweep(&self, now: u64) {
        if self.swept.fetch_max(now, Ordering::Relaxed) < now {
            self.retain(|held| !self.expired(&held.entry, now));
        }
    }

    fn retain(&self, keep: impl Fn(&Held) -> bool) {
        for shard in &self.shards {
            write(shard).retain(|_, held| {
                let keep = keep(held);
                if !keep {
                    self.let_go(held);
                }
                keep
            });
        }
    }

    /// What is to be done for an entry that leaves the table.
    fn let_go(&self, held: &Held) {
        held.entry.place.store(GONE, Ordering::Release);
        if !held.entry.fixed {
            held.owner.used.fetch_sub(1, Ordering::Relaxed);
            self.used.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Each address that is believed, in no order.
    pub(crate) fn list(&self, now: u64) -> Vec<Address> {
        let mut list = Vec::new();
        for shard in &self.shards {
            let shard = read(shard);
            let believed = shard
                .iter()
                .filter(|(_, held)| !self.expired(&held.entry, now));
            list.extend(believed.filter_map(|(key, held)| {
                let (vlan, mac) = key.split()?;
                let idle = now.saturating_sub(held.entry.seen.load(Ordering::Relaxed));
                let idle = (!held.entry.fixed).then_some(idle);
                Some(Address {
                    vlan,
                    mac,
                    port: held.owner.id,
                    idle,
                })
            }));
        }
        list
    }
}

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}
