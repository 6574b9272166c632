//! A front end that says what it is told, in whatever order.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{DeviceId, Keys, XenbusState};
use crate::prelude::*;
use crate::{Error, TxId};

/// The store's side of a front end without a handshake: a test's owner of it decides what it says, true or not.
/// [`Frontend`](super::Frontend) is what an honest driver uses.
pub struct BareFrontend {
    client: Arc<dyn Client>,
    frontend: String,
    backend: String,
}
impl std::fmt::Debug for BareFrontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BareFrontend")
            .field("frontend", &self.frontend)
            .finish_non_exhaustive()
    }
}

impl BareFrontend {
    /// Looks at a device and watches the back end's state.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn new(client: Arc<dyn Client>, id: &DeviceId) -> Result<Self, Error> {
        let frontend = Self {
            frontend: id.frontend_path(),
            backend: client.read_string(TxId::NONE, &format!("{}/backend", id.frontend_path()))?,
            client,
        };
        let watched = format!("{}/state", frontend.backend);
        frontend.client.watch(&watched, "otherend")?;
        Ok(frontend)
    }

    /// Readable when the back end's state may have changed.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.client.event_fd()
    }

    /// The back end's state as it is now; the events that announced it are taken.
    ///
    /// # Errors
    ///
    /// What the store answered; a missing node is state `Unknown`.
    pub fn backend_state(&self) -> Result<XenbusState, Error> {
        while self.client.take_event().is_some() {}
        match self
            .client
            .read(TxId::NONE, &format!("{}/state", self.backend))
        {
            Ok(text) => Ok(XenbusState::parse(&text)),
            Err(error) if error.is_not_found() => Ok(XenbusState::UNKNOWN),
            Err(error) => Err(error),
        }
    }

    /// What the back end has published.
    ///
    /// # Errors
    ///
    /// What the store answered; `ENOENT` for a missing key.
    pub fn backend_key(&self, key: &str) -> Result<String, Error> {
        self.client
            .read_string(TxId::NONE, &format!("{}/{key}", self.backend))
    }

    /// Publishes keys and goes to a state, at once: `Initialised` for a disk, `Connected` for a network card.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn publish(&self, keys: &Keys, state: XenbusState) -> Result<(), Error> {
        self.client.transact(|tx| {
            for (key, value) in keys {
                let path = format!("{}/{key}", self.frontend);
                self.client.write(tx, &path, value.as_bytes())?;
            }
            let path = format!("{}/state", self.frontend);
            self.client.write(tx, &path, state.0.to_string().as_bytes())
        })
    }
}
