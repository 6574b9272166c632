//! A block front end: the handshake, and its queues.

mod error;
mod options;
mod pages;
mod queue;
mod ring;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use cantle_abi::io::blkif::{BLKIF_MAX_SEGMENTS_PER_REQUEST, keys as key};
use cantle_evtchn::EventChannels;
use cantle_xenstore::prelude::*;
use cantle_xenstore::xenbus::{BareFrontend, XenbusState};
use cantle_xenstore::{Client, TxId};

use super::World;
use super::world::{BACK, FRONT};
pub use error::FrontError;
use error::{PATIENCE, sleep_on};
pub use options::{FrontOptions, RingSpelling};
pub use pages::LentPage;
pub use queue::FrontQueue;

/// The front end of one disk. It is used as its first queue; where it has more, they are in [`queues`](Self::queues).
pub struct BlkFront {
    bus: BareFrontend,
    options: FrontOptions,
    first: FrontQueue,
    rest: Vec<FrontQueue>,
}

impl BlkFront {
    /// Does the whole handshake, while somebody else serves the backend.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn connect(world: &World) -> Result<Self, FrontError> {
        Self::connect_with(world, FrontOptions::default())
    }

    /// As [`connect`](Self::connect), for a front end of another kind.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn connect_with(world: &World, options: FrontOptions) -> Result<Self, FrontError> {
        let mut front = Self::start_with(world, options)?;
        let end = Instant::now() + PATIENCE;
        while !front.finish()? {
            sleep_on(front.bus.event_fd(), end)?;
        }
        Ok(front)
    }

    /// The first half of the handshake: ring and channel are made and published, state `Initialised`.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn start(world: &World) -> Result<Self, FrontError> {
        Self::start_with(world, FrontOptions::default())
    }

    /// As [`start`](Self::start), for a front end of another kind.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn start_with(world: &World, options: FrontOptions) -> Result<Self, FrontError> {
        let client = world.client(FRONT)?;
        forget_another(&*client, &world.id().frontend_path())?;
        let bus = BareFrontend::new(client, world.id())?;
        let segments = segments(&bus, &options);
        let make = || {
            let channel = world.front_channels().alloc_unbound(BACK)?;
            FrontQueue::new(world.guest(), channel, &options, segments)
        };
        let first = make()?;
        let rest = (1..options.queues)
            .map(|_| make())
            .collect::<Result<_, _>>()?;
        let front = Self {
            bus,
            options,
            first,
            rest,
        };
        front.publish(&[])?;
        Ok(front)
    }

    /// Publishes the usual keys and `extra` ones, which may contradict them, with state `Initialised`.
    ///
    /// # Errors
    ///
    /// [`FrontError::Store`].
    pub fn publish(&self, extra: &[(&str, &str)]) -> Result<(), FrontError> {
        let mut keys = self.options.keys();
        for (number, queue) in self.queues().enumerate() {
            keys.extend(queue.keys(&self.options.directory(number)));
        }
        for (key, value) in extra {
            keys.push(((*key).to_owned(), (*value).to_owned()));
        }
        self.bus.publish(&keys, XenbusState::INITIALISED)?;
        Ok(())
    }

    /// The second half: where the back end is connected, reads the disk's size and goes to `Connected`; else false.
    ///
    /// # Errors
    ///
    /// [`FrontError`]; [`FrontError::State`] where the back end has refused.
    pub fn finish(&mut self) -> Result<bool, FrontError> {
        match self.bus.backend_state()? {
            XenbusState::CONNECTED => {}
            state @ (XenbusState::CLOSING | XenbusState::CLOSED) => {
                return Err(FrontError::State(state));
            }
            _ => return Ok(false),
        }
        self.look_at_size()?;
        self.bus.publish(&Vec::new(), XenbusState::CONNECTED)?;
        Ok(true)
    }

    /// Reads the disk's size, which all queues go by from now on.
    ///
    /// # Errors
    ///
    /// [`FrontError`] where there is none.
    pub fn look_at_size(&mut self) -> Result<u64, FrontError> {
        let sectors = self.bus.backend_key(key::SECTORS)?;
        let sectors = sectors.parse().map_err(|_| FrontError::Key(key::SECTORS))?;
        for queue in self.queues_mut() {
            queue.sectors = sectors;
        }
        Ok(sectors)
    }

    /// Waits until the back end is in a state.
    ///
    /// # Errors
    ///
    /// [`FrontError::Silence`] where it does not come.
    pub fn wait_state(&self, state: XenbusState) -> Result<(), FrontError> {
        let end = Instant::now() + PATIENCE;
        while self.bus.backend_state()? != state {
            sleep_on(self.bus.event_fd(), end)?;
        }
        Ok(())
    }

    /// Waits until the back end has published a value. It is looked at whenever the back end writes its state, as a driver does that
    /// hears of a new size.
    ///
    /// # Errors
    ///
    /// [`FrontError::Silence`] where it does not come, or the state is not written with it.
    pub fn wait_key(&self, key: &str, value: &str) -> Result<(), FrontError> {
        let end = Instant::now() + PATIENCE;
        loop {
            // The events are taken before the key is read.
            self.bus.backend_state()?;
            if self.bus.backend_key(key)? == value {
                return Ok(());
            }
            sleep_on(self.bus.event_fd(), end)?;
        }
    }

    /// Does something, and waits until the back end writes its state for it, be it the same one.
    pub(super) fn wait_event(&self, cause: impl FnOnce()) -> Result<(), FrontError> {
        self.bus.backend_state()?;
        cause();
        sleep_on(self.bus.event_fd(), Instant::now() + PATIENCE)
    }

    /// Says a state, without any of what a driver does for it.
    ///
    /// # Errors
    ///
    /// [`FrontError::Store`].
    pub fn set_state(&self, state: XenbusState) -> Result<(), FrontError> {
        Ok(self.bus.publish(&Vec::new(), state)?)
    }

    /// Disconnects in good order, and says that it will start again: a new [`BlkFront`] may connect.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn close(self) -> Result<(), FrontError> {
        self.set_state(XenbusState::CLOSING)?;
        self.wait_state(XenbusState::CLOSING)?;
        self.set_state(XenbusState::CLOSED)?;
        self.wait_state(XenbusState::CLOSED)?;
        self.set_state(XenbusState::INITIALISING)?;
        self.wait_state(XenbusState::INIT_WAIT)
    }

    /// What the back end has published under a key.
    ///
    /// # Errors
    ///
    /// [`FrontError::Store`] where it is missing.
    pub fn backend_key(&self, key: &str) -> Result<String, FrontError> {
        Ok(self.bus.backend_key(key)?)
    }

    /// One of the queues.
    #[must_use]
    pub fn queue(&mut self, number: usize) -> Option<&mut FrontQueue> {
        self.queues_mut().nth(number)
    }

    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = &FrontQueue> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// All queues, each to be used by a thread of its own, if one likes.
    pub fn queues_mut(&mut self) -> impl Iterator<Item = &mut FrontQueue> {
        std::iter::once(&mut self.first).chain(&mut self.rest)
    }
}

/// A driver that starts leaves nothing of an earlier one's keys.
fn forget_another(client: &dyn Client, home: &str) -> Result<(), FrontError> {
    for key in client.directory(TxId::NONE, home)? {
        if options::is_of_a_front_end(&key) {
            client.rm_if_there(TxId::NONE, &format!("{home}/{key}"))?;
        }
    }
    Ok(())
}

/// The most segments of a request: what the front end wants, where the back end offers as many.
fn segments(bus: &BareFrontend, options: &FrontOptions) -> usize {
    let offered = bus.backend_key(key::FEATURE_MAX_INDIRECT_SEGMENTS);
    let offered = offered.ok().and_then(|text| text.parse::<u16>().ok());
    let segments = usize::from(options.segments.min(offered.unwrap_or(0)));
    segments.max(BLKIF_MAX_SEGMENTS_PER_REQUEST)
}

impl Deref for BlkFront {
    type Target = FrontQueue;

    /// The first queue.
    fn deref(&self) -> &FrontQueue {
        &self.first
    }
}

impl DerefMut for BlkFront {
    fn deref_mut(&mut self) -> &mut FrontQueue {
        &mut self.first
    }
}

impl fmt::Debug for BlkFront {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlkFront")
            .field("options", &self.options)
            .field("first", &self.first)
            .finish_non_exhaustive()
    }
}
