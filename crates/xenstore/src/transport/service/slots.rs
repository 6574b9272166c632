//! The places of a service's connections.

use cantle_abi::DomId;
use rustix::event::epoll::EventFlags;

use super::end::End;
use crate::server::ConnId;

/// A place's number and how often it was given away before, so that an event that is late finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) index: u32,
    generation: u32,
}

impl Key {
    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_u64(data: u64) -> Self {
        let [index, generation] = [data & u64::from(u32::MAX), data >> 32]
            .map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        Self { index, generation }
    }
}

/// One connection, and what the service knows about it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) conn: ConnId,
    pub(super) end: End,
    /// It waits for its turn.
    pub(super) queued: bool,
    /// There may be something to be read.
    pub(super) readable: bool,
    /// The server may have more for it than was taken.
    pub(super) more_output: bool,
    /// The other side sends no more: what it has sent is served, then this is over.
    pub(super) ended: bool,
    /// Bytes that were read and that the server does not want yet.
    pub(super) held: Vec<u8>,
    /// Bytes that the other side has no room for yet.
    pub(super) unsent: Vec<u8>,
    /// A guest's page was full when it was last looked at, and the guest has not signalled since.
    pub(super) full: bool,
    /// How much more work was done in earlier turns than they allowed.
    pub(super) debt: u32,
}

impl Slot {
    pub(super) fn new(conn: ConnId, end: End) -> Self {
        Self {
            conn,
            end,
            queued: false,
            readable: false,
            more_output: false,
            ended: false,
            held: Vec::new(),
            unsent: Vec::new(),
            full: false,
            debt: 0,
        }
    }

    /// Notes what the kernel says.
    pub(super) fn told(&mut self, flags: EventFlags) {
        let over = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if flags.intersects(over | EventFlags::IN) {
            self.full = false;
            self.readable = true;
        }
        if let End::Socket(socket) = &mut self.end
            && flags.intersects(over)
        {
            socket.hung_up();
        }
    }

    /// Whether the other side has ended it and has got everything.
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.held.is_empty() && self.unsent.is_empty() && !self.more_output
    }

    /// Begins anew with another connection.
    pub(super) fn renew(&mut self, conn: ConnId) {
        self.conn = conn;
        self.held = Vec::new();
        self.unsent = Vec::new();
        self.more_output = false;
        self.full = false;
        self.readable = true;
    }

    /// Whether another turn would find something to do, as far as is known.
    pub(super) fn is_busy(&self) -> bool {
        let found = matches!(&self.end, End::Ring(ring) if ring.is_found_broken());
        found
            || self.unsent.is_empty()
                && !self.full
                && (self.readable || self.more_output || self.ended || !self.held.is_empty())
    }
}

/// All of them. A place is found by its number, without hashing.
#[derive(Debug, Default)]
pub(super) struct Slots {
    places: Vec<(u32, Option<Slot>)>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) -> Option<Key> {
        if let Some(index) = self.free.pop() {
            let (generation, place) = self.places.get_mut(index as usize)?;
            *place = Some(slot);
            let generation = *generation;
            return Some(Key { index, generation });
        }
        let index = u32::try_from(self.places.len()).ok()?;
        self.places.push((0, Some(slot)));
        Some(Key {
            index,
            generation: 0,
        })
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Slot> {
        let (generation, place) = self.places.get_mut(key.index as usize)?;
        if *generation != key.generation {
            return None;
        }
        let slot = place.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(key.index);
        Some(slot)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Slot> {
        self.places
            .get_mut(key.index as usize)
            .filter(|(generation, _)| *generation == key.generation)
            .and_then(|(_, place)| place.as_mut())
    }

    /// A domain's rings; there is one at most, unless the caller added more.
    pub(super) fn find_ring(&self, domid: DomId) -> Vec<Key> {
        let mut found = Vec::new();
        for (index, (generation, place)) in (0..).zip(&self.places) {
            if let Some(slot) = place
                && let End::Ring(ring) = &slot.end
                && ring.domid == domid
            {
                let generation = *generation;
                found.push(Key { index, generation });
            }
        }
        found
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.places.iter().filter_map(|(_, place)| place.as_ref())
    }
}
