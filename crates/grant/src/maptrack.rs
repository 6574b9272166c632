//! What a guest has mapped of others: handles, and what is behind them (Xen's `maptrack`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};

use cantle_abi::Gfn;

use crate::table::HANDLES_PER_FRAME;
use crate::{GrantStatus, GuestSpace, Mapping, Place, locked};

/// As many handles are made before one is used again, so that a number comes back late.
const UNUSED_AT_LEAST: usize = 1024;

/// One domain's mappings of other domains' pages.
pub(crate) struct Maptrack {
    limit: u32,
    /// Bits of a handle that say which; those above are the generation.
    index_bits: u32,
    space: OnceLock<Arc<dyn GuestSpace>>,
    tracks: Mutex<Tracks>,
}

#[derive(Default)]
struct Tracks {
    /// The domain has ended.
    closed: bool,
    slots: Vec<Slot>,
    /// Oldest first.
    free: VecDeque<u32>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    live: Option<Live>,
}

/// A mapping, and the parts of it that are not unmapped yet. The grant is in use until both are.
struct Live {
    mapping: Arc<Mapping>,
    host: Option<Place>,
    device: bool,
}

/// What is asked of [`Maptrack::unmap`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unmap {
    pub(crate) handle: u32,
    pub(crate) host_addr: u64,
    pub(crate) dev_bus_addr: u64,
    /// What is to be there instead.
    pub(crate) new_addr: u64,
}

impl Place {
    /// The address that the guest calls it by.
    fn is_at(self, host_addr: u64) -> bool {
        match self {
            Self::Frame(gfn) => gfn == Gfn::of_addr(host_addr),
            Self::Virtual(addr) | Self::Entry(addr) => addr == host_addr,
        }
    }
}

impl Maptrack {
    /// Room for so many frames of handles; nothing is allocated yet.
    pub(crate) fn new(frames: u32) -> Self {
        let limit = frames.saturating_mul(HANDLES_PER_FRAME);
        Self {
            limit,
            index_bits: u32::BITS - limit.saturating_sub(1).leading_zeros(),
            space: OnceLock::new(),
            tracks: Mutex::default(),
        }
    }

    /// Sets the guest's space, once: false where it has one.
    pub(crate) fn set_space(&self, space: Arc<dyn GuestSpace>) -> bool {
        self.space.set(space).is_ok()
    }

    pub(crate) fn space(&self) -> Option<&Arc<dyn GuestSpace>> {
        self.space.get()
    }

    /// Maps: takes a handle, pins by `pin`, and puts the page in its place. Nothing is left of what fails.
    pub(crate) fn map(
        &self,
        host: Option<Place>,
        device: bool,
        pin: impl FnOnce() -> Result<Mapping, GrantStatus>,
    ) -> Result<(u32, Arc<Mapping>), GrantStatus> {
        let space = self.space().ok_or(GrantStatus::PERMISSION_DENIED)?;
        let mut tracks = locked(&self.tracks);
        if tracks.closed {
            return Err(GrantStatus::BAD_DOMAIN);
        }
        let index = tracks.unused(self.limit).ok_or(GrantStatus::NO_SPACE)?;
        let mapping = Arc::new(pin()?);
        if let Some(at) = host {
            space.place(at, &mapping)?;
        }
        let live = Live {
            mapping: mapping.clone(),
            host,
            device,
        };
        let generation = tracks.fill(index, live);
        Ok((generation << self.index_bits | index, mapping))
    }

    /// Unmaps: what is named must be what was mapped, and is checked before anything is done.
    pub(crate) fn unmap(&self, op: &Unmap) -> Result<(), GrantStatus> {
        let space = self.space().ok_or(GrantStatus::BAD_HANDLE)?;
        let mut tracks = locked(&self.tracks);
        let index = op.handle & (1_u32 << self.index_bits).wrapping_sub(1);
        let generation = op.handle >> self.index_bits;
        let slot = usize::try_from(index)
            .ok()
            .and_then(|index| tracks.slots.get_mut(index))
            .filter(|slot| slot.generation == generation)
            .ok_or(GrantStatus::BAD_HANDLE)?;
        let live = slot.live.as_mut().ok_or(GrantStatus::BAD_HANDLE)?;
        if op.dev_bus_addr != 0 && op.dev_bus_addr != space.device_address(&live.mapping) {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        // An address that is zero, or of a part that is not mapped, is passed over (grant_table.h).
        let host = live.host.filter(|_| op.host_addr != 0);
        if let Some(at) = host {
            if !at.is_at(op.host_addr) {
                return Err(GrantStatus::GENERAL_ERROR);
            }
            // Out of the guest's reach first; only then is the grant's use over.
            if op.new_addr == 0 {
                space.remove(at)?;
            } else if space.is_translated() {
                return Err(GrantStatus::GENERAL_ERROR);
            } else {
                space.replace(at, op.new_addr)?;
            }
            live.host = None;
        }
        if op.dev_bus_addr != 0 {
            live.device = false;
        }
        let over = if live.host.is_none() && !live.device {
            let over = slot.end(self.generations());
            tracks.free.push_back(index);
            over
        } else {
            None
        };
        drop(tracks);
        drop(over);
        Ok(())
    }

    /// Generations that a handle has room for, without the one of all ones: `u32::MAX` is no handle.
    fn generations(&self) -> u32 {
        u32::MAX >> self.index_bits
    }

    /// How many mappings there are.
    pub(crate) fn count(&self) -> usize {
        let tracks = locked(&self.tracks);
        tracks.slots.len() - tracks.free.len()
    }

    /// Ends all mappings, and lets none be made any more: the domain has ended.
    pub(crate) fn close(&self) {
        let mut tracks = locked(&self.tracks);
        tracks.closed = true;
        let slots = std::mem::take(&mut tracks.slots);
        tracks.free.clear();
        for live in slots.into_iter().filter_map(|slot| slot.live) {
            if let (Some(space), Some(at)) = (self.space(), live.host) {
                // What cannot be taken away keeps its mapping; nobody runs there any more.
                let _ = space.remove(at);
            }
        }
    }
}

impl Tracks {
    /// A slot without a mapping: a new one, or that which has been without for longest.
    fn unused(&self, limit: u32) -> Option<u32> {
        let made = u32::try_from(self.slots.len()).ok()?;
        let fresh = made < limit && (self.slots.len() < UNUSED_AT_LEAST || self.free.is_empty());
        if fresh {
            return Some(made);
        }
        self.free.front().copied()
    }

    /// Fills the slot that [`unused`](Self::unused) gave: returns its generation.
    fn fill(&mut self, index: u32, live: Live) -> u32 {
        let live = Some(live);
        match usize::try_from(index).map(|index| self.slots.get_mut(index)) {
            Ok(Some(slot)) => {
                self.free.pop_front();
                slot.live = live;
                slot.generation
            }
            _ => {
                let generation = 0;
                self.slots.push(Slot { generation, live });
                generation
            }
        }
    }
}

impl Slot {
    /// Ends the mapping. Its handle names nothing from now on; the next one has another generation, below `generations`.
    fn end(&mut self, generations: u32) -> Option<Live> {
        self.generation = (self.generation + 1) % generations;
        self.live.take()
    }
}
