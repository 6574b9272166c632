//! The back end's handshake.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::XS_READ;

use super::machine::{Back, BackMove, BackSight, Peer};
use super::nodes::Nodes;
use super::{Device, DeviceError, DeviceId, Keys, OtherEnd, Phase, XenbusState};
use crate::Error;
use crate::prelude::*;

/// Moves that one call makes, however often the other end changes its mind meanwhile.
const MOVES_PER_CALL: u32 = 4;

/// The back end's handshake for one device, over a [`Client`] of its own.
///
/// No thread and no waiting: [`process`](Self::process) is called when [`event_fd`](Self::event_fd) is readable. Events only say
/// "look again": however many state changes a front end writes, each call reads its state as it is now and makes at most
/// a few transitions, so a flood of writes costs the guest more than it costs us. What is due is
/// [`machine::Back`](super::machine::Back)'s to say.
///
/// Nothing that the guest can write decides where we look: both directories come from the [`DeviceId`], never from the
/// `frontend` and `frontend-id` nodes.
pub struct Backend<D: Device> {
    nodes: Nodes,
    device: D,
    id: DeviceId,
    frontend: String,
    machine: Back,
}

impl<D: Device> fmt::Debug for Backend<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("backend", &self.nodes.path)
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

impl<D: Device> Backend<D> {
    /// Watches the device's nodes, publishes what the device describes, and waits for the front end (`InitWait`). The two
    /// directories exist already: see [`toolstack::create_device`](super::toolstack::create_device).
    ///
    /// They may be those that a back end left which died: a front end that is still connected is connected again, by the keys
    /// that it has published, as soon as [`process`](Self::process) is called; one that was closing is closed.
    ///
    /// # Errors
    ///
    /// `ENOENT` where the back end's directory does not exist; else what the store answered.
    pub fn new(client: Arc<dyn Client>, id: DeviceId, device: D) -> Result<Self, Error> {
        let mut backend = Self {
            frontend: id.frontend_path(),
            nodes: Nodes::new(client, id.backend_path()),
            device,
            id,
            machine: Back::new(),
        };
        let own = &backend.nodes.path;
        let watched = vec![
            format!("{}/state", backend.frontend),
            format!("{own}/online"),
            format!("{own}/state"),
        ];
        backend.nodes.watch(watched)?;
        let seen = backend.look()?;
        if seen.own.is_none() {
            return Err(Error::new(XS_READ, &backend.nodes.path, Errno::ENOENT));
        }
        backend.step(&seen)?;
        Ok(backend)
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
        self.machine.ask_close();
        self.process()
    }

    /// Writes keys again that were published with `Connected`, with the state, so that a front end looks at them: a disk that has
    /// become larger says so by this. Nothing where no front end is connected; the next one sees what `connect` returns.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn republish(&mut self, keys: &Keys) -> Result<(), Error> {
        if self.machine.is_serving() {
            self.nodes.publish(self.machine.state(), keys)?;
        }
        Ok(())
    }

    /// Whether the device is gone: [`process`](Self::process) has nothing more to do. A new one may be, where the toolstack had
    /// begun to take the device away.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.machine.is_finished()
    }

    /// Takes the events that wait, looks at the two directories, and does what is due. Bounded: at most
    /// 64 events and four transitions a call; the event fd stays readable where more is waiting.
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

    fn look(&self) -> Result<BackSight, Error> {
        let front = self.nodes.state(&self.frontend)?;
        Ok(BackSight {
            own: self.nodes.state(&self.nodes.path)?,
            online: self.nodes.online(&self.nodes.path)?,
            front: front.map_or(Peer::Gone, Peer::from),
        })
    }

    /// One move at most; whether there was one.
    fn step(&mut self, seen: &BackSight) -> Result<bool, Error> {
        let step = self.machine.due(seen);
        match step {
            BackMove::Rest => return Ok(false),
            BackMove::Await => {
                self.disconnect();
                self.nodes
                    .publish(XenbusState::INIT_WAIT, &self.description())?;
            }
            BackMove::Connect => self.connect()?,
            BackMove::Reconfigure | BackMove::Resume => {
                let says = match step {
                    BackMove::Resume => XenbusState::CONNECTED,
                    _ => XenbusState::RECONFIGURED,
                };
                if !self.reconfigure(says)? {
                    self.machine.refused();
                    return Ok(true);
                }
            }
            BackMove::Close => self.nodes.publish(XenbusState::CLOSING, &Keys::new())?,
            BackMove::Shut => {
                self.disconnect();
                if seen.own != Some(XenbusState::CLOSED) {
                    self.nodes.publish(XenbusState::CLOSED, &Keys::new())?;
                }
            }
            BackMove::Restate => self.nodes.publish(self.machine.state(), &Keys::new())?,
            BackMove::Vanish => self.disconnect(),
        }
        let before = self.machine;
        self.machine.made(step, seen.online);
        // A closed back end that closes again says and changes nothing.
        Ok(self.machine != before || step == BackMove::Restate)
    }

    /// What the device describes, and that its host side is set up: tools wait for that.
    fn description(&self) -> Keys {
        let mut keys = self.device.describe();
        keys.push(("hotplug-status".to_owned(), "connected".to_owned()));
        keys
    }

    fn connect(&mut self) -> Result<(), Error> {
        // There is one connection at most, whatever led here (XSA-350).
        self.disconnect();
        match self.with_front(|device, front| device.connect(front))? {
            Ok(keys) => {
                self.machine.attached();
                if let Err(error) = self.nodes.publish(XenbusState::CONNECTED, &keys) {
                    self.disconnect();
                    return Err(error);
                }
                self.nodes.withdraw_complaint();
                tracing::debug!(backend = %self.nodes.path, "connected");
                Ok(())
            }
            Err(error) => {
                self.nodes.complain(&error);
                self.nodes.publish(XenbusState::CLOSING, &Keys::new())
            }
        }
    }

    /// What the front end has changed; whether the device can do it.
    fn reconfigure(&mut self, says: XenbusState) -> Result<bool, Error> {
        match self.with_front(|device, front| device.reconfigure(front))? {
            Ok(keys) => {
                self.nodes.publish(says, &keys)?;
                Ok(true)
            }
            Err(error) => {
                self.nodes.complain(&error);
                self.nodes.publish(XenbusState::CLOSING, &Keys::new())?;
                Ok(false)
            }
        }
    }

    /// Lets the device read what the front end has published, all of one moment.
    fn with_front<R>(
        &mut self,
        act: impl FnOnce(&mut D, &OtherEnd<'_>) -> Result<R, DeviceError>,
    ) -> Result<Result<R, DeviceError>, Error> {
        let client = &*self.nodes.client;
        let tx = client.transaction_start()?;
        let front = OtherEnd::new(client, tx, &self.frontend, self.id.frontend);
        let result = act(&mut self.device, &front);
        // It only read: there is nothing to commit, and nothing to do where the abort fails.
        let _ = client.transaction_end(tx, false);
        Ok(result)
    }

    fn disconnect(&mut self) {
        if self.machine.detach() {
            self.device.disconnect();
            tracing::debug!(backend = %self.nodes.path, "disconnected");
        }
    }
}

impl<D: Device> Drop for Backend<D> {
    fn drop(&mut self) {
        self.disconnect();
    }
}
