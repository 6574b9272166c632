//! The back end's handshake.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::Errno;

use super::{DeviceId, FrontKeys, XenbusState};
use crate::prelude::*;
use crate::{Error, TxId};

const WATCH_TOKEN: &str = "xenbus";
const EVENTS_PER_CALL: u32 = 64;
const TRANSITIONS_PER_CALL: u32 = 4;

/// Keys and their values, to be published in the back end's directory.
pub type Keys = Vec<(String, String)>;

/// Why a device could not be connected. Its text goes to the log; the guest sees only the state.
pub type DeviceError = Box<dyn std::error::Error + Send + Sync>;

/// One device's part in the handshake. [`Backend`] calls these functions, one at a time.
pub trait Device {
    /// What to publish before waiting for the front end: `feature-*` nodes and limits. Called again before each reconnection.
    fn describe(&self) -> Keys;

    /// The front end is ready: read its keys, map its rings, bind its event channels and start to serve. What is returned
    /// is published together with the state `Connected` (a disk's `sectors`, for example).
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the keys or with mapping them; the device must be as if it had never been called. The back
    /// end then goes to `Closing`, and to `Closed` with the front end.
    fn connect(&mut self, front: &FrontKeys<'_>) -> Result<Keys, DeviceError>;

    /// Stop serving and give back rings, mappings and channels, without waiting for the front end. Called once for each
    /// `connect` that succeeded.
    fn disconnect(&mut self);
}

/// Where a back end's life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It goes on: call [`Backend::process`] when the event fd is readable.
    Running(XenbusState),
    /// The toolstack took the device away, and it is closed: drop the back end.
    Finished,
}

/// The back end's handshake for one device, over a [`Client`] of its own.
///
/// No thread and no waiting: [`process`](Self::process) is called when [`event_fd`](Self::event_fd) is readable. Events only say
/// "look again": however many state changes a front end writes, each call reads its state as it is now and makes at most
/// a few transitions, so a flood of writes costs the guest more than it costs us.
///
/// Nothing that the guest can write decides where we look: both directories come from the [`DeviceId`].
pub struct Backend<D: Device> {
    client: Arc<dyn Client>,
    device: D,
    id: DeviceId,
    frontend: String,
    backend: String,
    /// What we last wrote to our `state` node.
    state: XenbusState,
    /// Whether `device.connect` succeeded and `disconnect` has not been called since.
    connected: bool,
    /// Somebody on this side asked for the end.
    closing: bool,
    finished: bool,
    failures: u32,
}

impl<D: Device> fmt::Debug for Backend<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("backend", &self.backend)
            .field("state", &self.state)
            .field("connected", &self.connected)
            .finish_non_exhaustive()
    }
}

/// What the store says at one moment.
struct Seen {
    /// Our own `state` node as somebody may have rewritten it; `None` where our directory is gone.
    own: Option<XenbusState>,
    online: bool,
    front: XenbusState,
}

impl<D: Device> Backend<D> {
    /// Watches the device's nodes, publishes what the device describes, and waits for the front end (`InitWait`). The two
    /// directories exist already: see [`toolstack::create_device`](super::toolstack::create_device).
    ///
    /// # Errors
    ///
    /// `ENOENT` where the back end's directory does not exist; else what the store answered.
    pub fn new(client: Arc<dyn Client>, id: DeviceId, device: D) -> Result<Self, Error> {
        let backend = Self {
            frontend: id.frontend_path(),
            backend: id.backend_path(),
            client,
            device,
            id,
            state: XenbusState::INITIALISING,
            connected: false,
            closing: false,
            finished: false,
            failures: 0,
        };
        let mut backend = backend;
        for path in backend.watched() {
            backend.client.watch(&path, WATCH_TOKEN)?;
        }
        backend.publish(XenbusState::INIT_WAIT, &backend.device.describe())?;
        Ok(backend)
    }

    /// Readable when [`process`](Self::process) has something to do.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.client.event_fd()
    }

    /// The state we are in, as published.
    #[must_use]
    pub fn state(&self) -> XenbusState {
        self.state
    }

    /// Which device this is.
    #[must_use]
    pub fn id(&self) -> &DeviceId {
        &self.id
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, to be changed.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Asks the front end to close, as a device does that can serve no longer. The rest happens in
    /// [`process`](Self::process); afterwards the front end may connect again.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn close(&mut self) -> Result<Phase, Error> {
        self.closing = true;
        self.process()
    }

    /// Takes the events that wait, looks at the two directories, and does what is due. Bounded: at most
    /// 64 events and four transitions a call; the event fd stays readable where more is waiting.
    ///
    /// # Errors
    ///
    /// What the store answered; the device stays as it is, and the call may be repeated.
    pub fn process(&mut self) -> Result<Phase, Error> {
        for _ in 0..EVENTS_PER_CALL {
            if self.client.take_event().is_none() {
                break;
            }
        }
        for _ in 0..TRANSITIONS_PER_CALL {
            if self.finished {
                return Ok(Phase::Finished);
            }
            let seen = self.look()?;
            if !self.step(&seen)? {
                break;
            }
        }
        Ok(if self.finished {
            Phase::Finished
        } else {
            Phase::Running(self.state)
        })
    }

    fn watched(&self) -> [String; 3] {
        [
            format!("{}/state", self.frontend),
            format!("{}/online", self.backend),
            format!("{}/state", self.backend),
        ]
    }

    fn look(&self) -> Result<Seen, Error> {
        let own = self.read_if_there(&format!("{}/state", self.backend))?;
        let online = self.read_if_there(&format!("{}/online", self.backend))?;
        let front = self.read_if_there(&format!("{}/state", self.frontend))?;
        Ok(Seen {
            own: own.map(|text| XenbusState::parse(&text)),
            online: online.is_none_or(|text| text != b"0"),
            front: front.map_or(XenbusState::UNKNOWN, |text| XenbusState::parse(&text)),
        })
    }

    /// A front end that hides its directory from us is as good as one that removed it.
    fn read_if_there(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.client.read(TxId::NONE, path) {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.errno, Errno::ENOENT | Errno::EACCES) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One transition at most; whether there was one.
    fn step(&mut self, seen: &Seen) -> Result<bool, Error> {
        let Some(own) = seen.own else {
            self.disconnect();
            self.finished = true;
            return Ok(true);
        };
        // A toolstack that removes the device writes `Closing` into our node.
        self.closing |= own == XenbusState::CLOSING && self.state != XenbusState::CLOSING;
        let ending = self.closing || !seen.online;
        match seen.front {
            XenbusState::INITIALISED | XenbusState::CONNECTED => self.front_ready(ending),
            XenbusState::CLOSING => self.go(XenbusState::CLOSING),
            XenbusState::INITIALISING if !ending => self.front_starts(),
            XenbusState::UNKNOWN if !ending && self.state == XenbusState::INIT_WAIT => Ok(false),
            XenbusState::INITIALISING | XenbusState::CLOSED | XenbusState::UNKNOWN => {
                self.shut(seen.online)
            }
            _ => Ok(false),
        }
    }

    /// The front end has published its keys, or is connected.
    fn front_ready(&mut self, ending: bool) -> Result<bool, Error> {
        if ending {
            // It serves on until the front end closes: a mounted disk may have writes under way.
            return self.go(XenbusState::CLOSING);
        }
        if self.state != XenbusState::INIT_WAIT || self.connected {
            return Ok(false);
        }
        let tx = self.client.transaction_start()?;
        let front = FrontKeys::new(&*self.client, tx, &self.frontend, self.id.frontend);
        let result = self.device.connect(&front);
        // It only read: there is nothing to commit, and nothing to do where the abort fails.
        let _ = self.client.transaction_end(tx, false);
        match result {
            Ok(keys) => {
                self.connected = true;
                if let Err(error) = self.publish(XenbusState::CONNECTED, &keys) {
                    self.disconnect();
                    return Err(error);
                }
                tracing::debug!(backend = %self.backend, "connected");
            }
            Err(error) => {
                self.complain(&*error);
                self.publish(XenbusState::CLOSING, &[])?;
            }
        }
        Ok(true)
    }

    /// The front end starts, or starts again without having closed.
    fn front_starts(&mut self) -> Result<bool, Error> {
        if self.state == XenbusState::INIT_WAIT {
            return Ok(false);
        }
        self.disconnect();
        self.publish(XenbusState::INIT_WAIT, &self.device.describe())?;
        Ok(true)
    }

    /// The front end is not there, or not any more.
    fn shut(&mut self, online: bool) -> Result<bool, Error> {
        self.disconnect();
        let changed = self.go(XenbusState::CLOSED)?;
        self.closing = false;
        self.finished = !online;
        Ok(changed)
    }

    fn go(&mut self, state: XenbusState) -> Result<bool, Error> {
        let due = self.state != state
            && !(state == XenbusState::CLOSING && self.state == XenbusState::CLOSED);
        if due {
            self.publish(state, &[])?;
        }
        Ok(due)
    }

    fn disconnect(&mut self) {
        if core::mem::take(&mut self.connected) {
            self.device.disconnect();
            tracing::debug!(backend = %self.backend, "disconnected");
        }
    }

    /// Writes keys and state at once; a directory that has been removed is not made again.
    fn publish(&mut self, state: XenbusState, keys: &[(String, String)]) -> Result<(), Error> {
        let state_path = format!("{}/state", self.backend);
        self.client.transact(|tx| {
            self.client.read(tx, &state_path)?;
            for (key, value) in keys {
                let path = format!("{}/{key}", self.backend);
                self.client.write(tx, &path, value.as_bytes())?;
            }
            self.client
                .write(tx, &state_path, state.0.to_string().as_bytes())
        })?;
        self.state = state;
        Ok(())
    }

    /// Logs a failure to connect: a front end that fails for ever is logged ever more rarely.
    fn complain(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        self.failures = self.failures.saturating_add(1);
        if self.failures.is_power_of_two() {
            tracing::warn!(backend = %self.backend, failures = self.failures, %error, "cannot connect");
        }
    }
}

impl<D: Device> Drop for Backend<D> {
    fn drop(&mut self) {
        self.disconnect();
        for path in self.watched() {
            // The connection may be gone, and its watches with it.
            let _ = self.client.unwatch(&path, WATCH_TOKEN);
        }
    }
}
