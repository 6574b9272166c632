//! The front end's handshake.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::io::xs_wire::XS_READ;
use cantle_abi::{DomId, Errno};

use super::machine::{Front, FrontMove, FrontSight, Peer};
use super::nodes::Nodes;
use super::{DeviceError, Keys, OtherEnd, Phase, XenbusState};
use crate::prelude::*;
use crate::{Error, TxId};

const MOVES_PER_CALL: u32 = 4;

/// What a front end publishes for its back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Rings, event channels, features.
    pub keys: Keys,
    /// Whether the device is usable with that, as a network card is: the state is `Connected`. Else it is `Initialised`,
    /// and `Connected` follows when the back end's own keys have been read, as for a disk.
    pub complete: bool,
}

/// One device's part in the front end's handshake. [`Frontend`] calls these functions, one at a time.
pub trait FrontDevice {
    /// The back end waits: set up rings and channels for its domain, as it can use them by what it has published.
    ///
    /// # Errors
    ///
    /// Whatever failed; the device must be as if it had never been called. The front end then closes.
    fn offer(&mut self, back: &OtherEnd<'_>) -> Result<Offer, DeviceError>;

    /// The back end is connected: read what it says of the device, and use it. Called at most once after each `offer`.
    ///
    /// # Errors
    ///
    /// Whatever cannot be used. The front end then closes, and `disconnect` follows.
    fn connect(&mut self, back: &OtherEnd<'_>) -> Result<(), DeviceError>;

    /// Use the device no more, and take back rings and channels. Called once for each `offer` that succeeded. What was lent to a
    /// back end that is gone without a word may still be in its use.
    fn disconnect(&mut self);
}

/// A front end's handshake for one device, over a [`Client`] of its own: what a driver in a guest does.
///
/// As for [`Backend`](super::Backend) there is no thread and no waiting. It finds its back end by the nodes that the toolstack has written
/// into its directory, each time that it begins; what the back end says is checked like anything that a stranger says.
///
/// Once closed by either side, it stays closed until [`open`](Self::open).
pub struct Frontend<D: FrontDevice> {
    nodes: Nodes,
    device: D,
    /// The back end's directory and domain.
    backend: Option<(String, DomId)>,
    machine: Front,
}

impl<D: FrontDevice> fmt::Debug for Frontend<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontend")
            .field("frontend", &self.nodes.path)
            .field("backend", &self.backend)
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

impl<D: FrontDevice> Frontend<D> {
    /// Begins (`Initialising`), whatever state a former driver of the device has left. `path` is the front end's directory, absolute or
    /// relative to the client's home: `device/vbd/51712`.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is no such directory; else what the store answered.
    pub fn new(client: Arc<dyn Client>, path: &str, device: D) -> Result<Self, Error> {
        let mut frontend = Self {
            nodes: Nodes::new(client, path.to_owned()),
            device,
            backend: None,
            machine: Front::new(),
        };
        let seen = frontend.look()?;
        if seen.own.is_none() {
            return Err(Error::new(XS_READ, path, Errno::ENOENT));
        }
        frontend.step(&seen)?;
        Ok(frontend)
    }

    /// Readable when [`process`](Self::process) has something to do.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.nodes.client.event_fd()
    }

    /// The state we are in, as published.
    #[must_use]
    pub fn state(&self) -> XenbusState {
        self.machine.state()
    }

    /// Whether the device can be used.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.machine.is_connected()
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

    /// Begins to give the device up. The rest happens in [`process`](Self::process).
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn close(&mut self) -> Result<Phase, Error> {
        self.machine.ask_close();
        self.process()
    }

    /// Begins again, as a driver does that is loaded again. Also for one that is connected: that connection ends.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn open(&mut self) -> Result<Phase, Error> {
        self.machine.ask_open();
        self.process()
    }

    /// Changes keys of a connected front end, which the back end is to do without a new connection: says `Reconfiguring`, and
    /// in [`process`](Self::process) `Connected` when the back end has said `Reconfigured`. Before that is done, further changes may
    /// follow. False where the front end is not connected: then nothing is written.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn reconfigure(&mut self, keys: &Keys) -> Result<bool, Error> {
        if !self.machine.is_connected() {
            return Ok(false);
        }
        self.nodes.publish(XenbusState::RECONFIGURING, keys)?;
        self.machine.reconfiguring();
        Ok(true)
    }

    /// Whether the device is gone: [`process`](Self::process) has nothing more to do.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.machine.is_finished()
    }

    /// Takes the events that wait, looks at the two directories, and does what is due. Bounded, as
    /// [`Backend::process`](super::Backend::process) is.
    ///
    /// # Errors
    ///
    /// What the store answered; the call may be repeated.
    pub fn process(&mut self) -> Result<Phase, Error> {
        self.nodes.take_events();
        for _ in 0..MOVES_PER_CALL {
            if self.machine.is_finished() {
                return Ok(Phase::Finished);
            }
            let seen = self.look()?;
            if !self.step(&seen)? {
                break;
            }
        }
        Ok(if self.machine.is_finished() {
            Phase::Finished
        } else {
            Phase::Running(self.machine.state())
        })
    }

    fn look(&self) -> Result<FrontSight, Error> {
        let own = self.nodes.state(&self.nodes.path)?;
        let Some((backend, _)) = &self.backend else {
            return Ok(FrontSight {
                own,
                online: true,
                back: Peer::Gone,
            });
        };
        let back = self.nodes.state(backend)?;
        Ok(FrontSight {
            own,
            online: self.nodes.online(backend)?,
            back: back.map_or(Peer::Gone, Peer::from),
        })
    }

    /// One move at most; whether there was one.
    fn step(&mut self, seen: &FrontSight) -> Result<bool, Error> {
        let step = self.machine.due(seen);
        let mut said = XenbusState::CONNECTED;
        match step {
            FrontMove::Rest => return Ok(false),
            FrontMove::Begin => {
                self.disconnect();
                self.find()?;
                self.say(XenbusState::INITIALISING)?;
            }
            FrontMove::Offer => said = self.offer()?,
            FrontMove::Connect => said = self.connect()?,
            FrontMove::Resume => self.say(said)?,
            FrontMove::Close => self.say(XenbusState::CLOSING)?,
            FrontMove::Shut => {
                self.disconnect();
                self.say(XenbusState::CLOSED)?;
            }
            FrontMove::Restate => self.say(self.machine.state())?,
            FrontMove::Vanish => self.disconnect(),
        }
        self.machine.made(step, said);
        Ok(true)
    }

    fn say(&self, state: XenbusState) -> Result<(), Error> {
        self.nodes.publish(state, &Keys::new())
    }

    /// Who serves the device, by what the toolstack has written.
    fn find(&mut self) -> Result<(), Error> {
        let own = &self.nodes.path;
        let client = &*self.nodes.client;
        let mut watched = vec![format!("{own}/state")];
        self.backend = None;
        let path = self.nodes.read(&format!("{own}/backend"))?;
        if let Some(path) = path.and_then(|path| String::from_utf8(path).ok()) {
            let domain = client.read_parsed(TxId::NONE, &format!("{own}/backend-id"))?;
            watched.push(format!("{path}/state"));
            watched.push(format!("{path}/online"));
            self.backend = Some((path, DomId(domain)));
        }
        self.nodes.watch(watched)
    }

    fn offer(&mut self) -> Result<XenbusState, Error> {
        self.disconnect();
        match self.with_back(|device, back| device.offer(back))? {
            Ok(offer) => {
                self.machine.attached();
                let state = match offer.complete {
                    true => XenbusState::CONNECTED,
                    false => XenbusState::INITIALISED,
                };
                if let Err(error) = self.nodes.publish(state, &offer.keys) {
                    self.disconnect();
                    return Err(error);
                }
                Ok(state)
            }
            Err(error) => self.fail(&error),
        }
    }

    fn connect(&mut self) -> Result<XenbusState, Error> {
        match self.with_back(|device, back| device.connect(back))? {
            Ok(()) => {
                if self.machine.state() != XenbusState::CONNECTED {
                    self.say(XenbusState::CONNECTED)?;
                }
                self.nodes.withdraw_complaint();
                Ok(XenbusState::CONNECTED)
            }
            Err(error) => self.fail(&error),
        }
    }

    /// The device cannot be used: closing begins.
    fn fail(&mut self, error: &DeviceError) -> Result<XenbusState, Error> {
        self.nodes.complain(error);
        self.say(XenbusState::CLOSING)?;
        Ok(XenbusState::CLOSING)
    }

    /// Lets the device read what the back end has published, all of one moment.
    fn with_back<R>(
        &mut self,
        act: impl FnOnce(&mut D, &OtherEnd<'_>) -> Result<R, DeviceError>,
    ) -> Result<Result<R, DeviceError>, Error> {
        let Some((path, domain)) = &self.backend else {
            return Ok(Err("the device's directory names no back end".into()));
        };
        let client = &*self.nodes.client;
        let tx = client.transaction_start()?;
        let back = OtherEnd::new(client, tx, path, *domain);
        let result = act(&mut self.device, &back);
        let _ = client.transaction_end(tx, false);
        Ok(result)
    }

    fn disconnect(&mut self) {
        if self.machine.detach() {
            self.device.disconnect();
        }
    }
}

impl<D: FrontDevice> Drop for Frontend<D> {
    fn drop(&mut self) {
        self.disconnect();
    }
}
