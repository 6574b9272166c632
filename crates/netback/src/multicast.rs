//! Which multicast packets a guest wants (`feature-multicast-control`).

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cantle_abi::io::netif::{
    NetifExtraInfo, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
};

/// The most groups of an interface: as many as Linux's back end takes.
pub const MULTICAST_MAX: usize = 64;

/// No group: the address of nobody, and no multicast address.
const FREE: u64 = 0;
const BROADCAST: [u8; 6] = [0xff; 6];

/// A request about a group that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MulticastFault {
    /// The address is no group's.
    #[error("{0:02x?} is no multicast address")]
    Unicast([u8; 6]),
    /// There are [`MULTICAST_MAX`] groups already.
    #[error("no room for multicast address {0:02x?}")]
    Full([u8; 6]),
}

/// The multicast groups that a front end has joined, and whether it wants no others.
///
/// Its transmitting queues say which groups ([`amend`](Self::amend)); whoever has packets for it asks [`passes`](Self::passes),
/// on any thread and without a lock. The groups stand in a table of fixed size: nothing is allocated or freed while others look
/// (XSA-527 is what happens otherwise).
#[derive(Debug)]
pub struct MulticastFilter {
    is_on: AtomicBool,
    /// No entry from this one on is in use.
    end: AtomicUsize,
    /// Addresses as numbers, or [`FREE`]. A group stays in its entry until it is left.
    groups: [AtomicU64; MULTICAST_MAX],
    /// Held by who changes groups.
    changing: Mutex<()>,
}

impl Default for MulticastFilter {
    fn default() -> Self {
        Self::new()
    }
}

impl MulticastFilter {
    /// No groups, and all packets pass.
    #[must_use]
    pub fn new() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            end: AtomicUsize::new(0),
            groups: [const { AtomicU64::new(FREE) }; MULTICAST_MAX],
            changing: Mutex::new(()),
        }
    }

    /// Whether multicast packets are dropped but for the groups joined (`request-multicast-control`); at first they are not. Groups can be
    /// joined and left in either case.
    pub fn set_on(&self, is_on: bool) {
        // Relaxed, as everywhere here: each packet is judged by what is found, and nothing else hangs on it.
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// Whether a packet to this address is for the guest. Unicast and broadcast packets always are.
    ///
    /// Reads at most [`MULTICAST_MAX`] words.
    #[must_use]
    pub fn passes(&self, destination: [u8; 6]) -> bool {
        if !is_multicast(destination)
            || destination == BROADCAST
            || !self.is_on.load(Ordering::Relaxed)
        {
            return true;
        }
        let wanted = number(destination);
        let groups = self.groups.iter().take(self.end.load(Ordering::Relaxed));
        groups
            .map(|group| group.load(Ordering::Relaxed))
            .any(|group| group == wanted)
    }

    /// Joins or leaves a group, as a front end's extra info says. To join a group twice is to be in it once, and to leave one that was
    /// not joined is nothing; extra info of other kinds does nothing.
    ///
    /// # Errors
    ///
    /// As [`MulticastFault`] says; the front end gets `NETIF_RSP_ERROR`.
    pub fn amend(&self, extra: &NetifExtraInfo) -> Result<(), MulticastFault> {
        match extra.kind {
            XEN_NETIF_EXTRA_TYPE_MCAST_ADD => self.join(extra.mcast_addr()),
            XEN_NETIF_EXTRA_TYPE_MCAST_DEL => self.leave(extra.mcast_addr()),
            _ => Ok(()),
        }
    }

    /// Leaves all groups, and lets all packets pass: for the next front end.
    pub fn reset(&self) {
        self.change(|groups| {
            for group in groups {
                group.store(FREE, Ordering::Relaxed);
            }
        });
        self.set_on(false);
    }

    fn join(&self, address: [u8; 6]) -> Result<(), MulticastFault> {
        if !is_multicast(address) {
            return Err(MulticastFault::Unicast(address));
        }
        let joined = number(address);
        self.change(|groups| {
            if find(groups, joined).is_none() {
                let free = find(groups, FREE).ok_or(MulticastFault::Full(address))?;
                free.store(joined, Ordering::Relaxed);
            }
            Ok(())
        })
    }

    fn leave(&self, address: [u8; 6]) -> Result<(), MulticastFault> {
        if !is_multicast(address) {
            return Err(MulticastFault::Unicast(address));
        }
        self.change(|groups| {
            if let Some(group) = find(groups, number(address)) {
                group.store(FREE, Ordering::Relaxed);
            }
        });
        Ok(())
    }

    /// One change at a time. Readers need not wait: an entry is a word.
    fn change<T>(&self, with: impl FnOnce(&[AtomicU64]) -> T) -> T {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let result = with(&self.groups);
        let last = self
            .groups
            .iter()
            .rposition(|group| group.load(Ordering::Relaxed) != FREE);
        self.end
            .store(last.map_or(0, |last| last + 1), Ordering::Relaxed);
        result
    }
}

fn find(groups: &[AtomicU64], number: u64) -> Option<&AtomicU64> {
    groups
        .iter()
        .find(|group| group.load(Ordering::Relaxed) == number)
}

fn is_multicast(address: [u8; 6]) -> bool {
    address[0] & 1 != 0
}

/// The address as a number; not [`FREE`] for a group's.
fn number([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

#[cfg(test)]
mod tests;
