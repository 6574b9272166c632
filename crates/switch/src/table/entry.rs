//! What the table is made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::port::PortId;
use crate::{MacAddr, VlanId};

/// A place that no port has, and the epoch of a port that is gone.
pub(crate) const GONE: u64 = u64::MAX;

/// An address in a VLAN, as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(super) u64);

impl Key {
    pub(crate) fn new(vlan: VlanId, mac: MacAddr) -> Self {
        Self(u64::from(vlan.number()) << 48 | mac.number())
    }

    pub(super) fn split(self) -> Option<(VlanId, MacAddr)> {
        let vlan = u16::try_from(self.0 >> 48).ok().and_then(VlanId::new)?;
        Some((vlan, MacAddr::of_number(self.0)))
    }
}

/// Where an address is.
#[derive(Debug)]
pub(crate) struct Entry {
    /// A port's id, or [`GONE`]. Stored with release and loaded with acquire: whoever sees a port's id sees the entry as made.
    pub(super) place: AtomicU64,
    /// When it last sent, in seconds.
    pub(super) seen: AtomicU64,
    pub(super) fixed: bool,
}

impl Entry {
    pub(crate) fn place(&self) -> Option<PortId> {
        let place = self.place.load(Ordering::Acquire);
        (place != GONE).then_some(PortId(place))
    }

    /// Whether it stays where it was put.
    pub(crate) fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// Notes that it has sent; writes only when there is something new.
    pub(crate) fn touch(&self, now: u64) {
        if self.seen.load(Ordering::Relaxed) < now {
            self.seen.store(now, Ordering::Relaxed);
        }
    }
}

/// A port as the table knows it.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) id: PortId,
    /// Changes whenever what was learned before is not to be believed any more; a learner with another one is late.
    pub(crate) epoch: AtomicU64,
    /// How many addresses are learned behind it, and how many may be.
    pub(crate) used: AtomicUsize,
    pub(crate) limit: AtomicUsize,
}

impl Owner {
    pub(super) fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn reserve(&self) -> bool {
        reserve(&self.used, self.limit.load(Ordering::Relaxed))
    }
}

/// Counts one more, if that is within the limit.
pub(super) fn reserve(used: &AtomicUsize, limit: usize) -> bool {
    let more = |used: usize| (used < limit).then(|| used.saturating_add(1));
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        .is_ok()
}

/// What the table holds beside the entry that readers share.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) entry: Arc<Entry>,
    pub(super) owner: Arc<Owner>,
    /// The second in which it last moved, and how often in it.
    pub(super) window: u64,
    pub(super) moves: u32,
}

/// An address, as it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// Its VLAN.
    pub vlan: VlanId,
    /// The address.
    pub mac: MacAddr,
    /// The port it is behind.
    pub port: PortId,
    /// Seconds since it last sent; `None` for a static one.
    pub idle: Option<u64>,
}

impl Held {
    pub(super) fn new(owner: &Arc<Owner>, now: u64, fixed: bool) -> Self {
        Self {
            entry: Arc::new(Entry {
                place: AtomicU64::new(owner.id.0),
                seen: AtomicU64::new(now),
                fixed,
            }),
            owner: owner.clone(),
            window: 0,
            moves: 0,
        }
    }
}
