//! The toolstack's orderly removal of a device.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{DeviceId, XenbusState, toolstack};
use crate::prelude::*;
use crate::{Error, TxId};

const TOKEN: &str = "removal";
const EVENTS_PER_CALL: u32 = 64;

/// How a removal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The front end still has the device: call [`Removal::process`] when the event fd is readable.
    NotYet,
    /// The back end has closed it, and the directories are gone.
    Orderly,
    /// The directories were taken away by force, here or elsewhere.
    Forced,
}

/// A device on its way out: both ends are asked to close, and when they have, its directories go.
///
/// A front end may take long (its disk is mounted), or refuse for ever. How long to wait is for the owner's clock; then
/// [`force`](Self::force) takes the directories away, upon which the back end disconnects, whatever the front end does.
pub struct Removal {
    client: Arc<dyn Client>,
    id: DeviceId,
    outcome: Removed,
}

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removal")
            .field("id", &self.id)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

impl Removal {
    /// Asks for the removal; `client` is for this removal alone, since its events are taken.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is no such device; else what the store answered.
    pub fn begin(client: Arc<dyn Client>, id: DeviceId) -> Result<Self, Error> {
        toolstack::remove_device(&*client, &id)?;
        let removal = Self {
            client,
            id,
            outcome: Removed::NotYet,
        };
        removal.client.watch(&removal.state_path(), TOKEN)?;
        Ok(removal)
    }

    /// Readable when [`process`](Self::process) has something to do.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.client.event_fd()
    }

    /// Looks whether the back end has closed the device, and then takes its directories away. Never waits.
    ///
    /// # Errors
    ///
    /// What the store answered; the call may be repeated.
    pub fn process(&mut self) -> Result<Removed, Error> {
        for _ in 0..EVENTS_PER_CALL {
            if self.client.take_event().is_none() {
                break;
            }
        }
        if self.outcome != Removed::NotYet {
            return Ok(self.outcome);
        }
        let outcome = match self.client.read(TxId::NONE, &self.state_path()) {
            Ok(text) if XenbusState::parse(&text) == XenbusState::CLOSED => Removed::Orderly,
            Ok(_) => return Ok(Removed::NotYet),
            Err(error) if error.is_not_found() => Removed::Forced,
            Err(error) => return Err(error),
        };
        toolstack::destroy_device(&*self.client, &self.id)?;
        self.outcome = outcome;
        Ok(outcome)
    }

    /// Takes the directories away now.
    ///
    /// # Errors
    ///
    /// What the store answered; the call may be repeated.
    pub fn force(&mut self) -> Result<Removed, Error> {
        if let Removed::NotYet = self.process()? {
            toolstack::destroy_device(&*self.client, &self.id)?;
            self.outcome = Removed::Forced;
        }
        Ok(self.outcome)
    }

    fn state_path(&self) -> String {
        format!("{}/state", self.id.backend_path())
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        // The connection may be gone, and its watches with it.
        let _ = self.client.unwatch(&self.state_path(), TOKEN);
    }
}
