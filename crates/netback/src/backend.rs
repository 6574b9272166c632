//! What an embedder runs.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use cantle_evtchn::EventChannels;
use cantle_grant::GrantMapper;
use cantle_xenstore::xenbus::{self, DeviceId, Phase, XenbusState};
use cantle_xenstore::{Client, Error as StoreError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::device::Vif;
use crate::poller::{Poller, Ready, Source};
use crate::port::NetPort;
use crate::stats::Stats;

/// Why a back end cannot be made, or cannot go on. None of it is the guest's doing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// Xenstore.
    #[error("xenstore")]
    Store(#[from] StoreError),
    /// The host: no descriptor is free, or epoll fails.
    #[error("the host")]
    Host(#[from] io::Error),
}

/// One interface's back end: from the xenbus handshake to the packets.
///
/// It needs no thread of its own: poll its descriptor ([`AsRawFd`]; readable while there is work) together with your other
/// ones, and call [`process`](Self::process). Or give it a thread, and call [`run`](Self::run).
///
/// A guest can end its own interface at most: a ring that breaks the protocol is given up, and the interface closes; a packet
/// that does is refused. Dropping the back end disconnects the guest.
#[derive(Debug)]
pub struct Backend {
    bus: xenbus::Backend<Vif>,
    poller: Arc<Poller>,
    again: EventFd,
    broken: u64,
}

impl Backend {
    /// Publishes the interface `id` and waits for its front end. The device's directories exist already (see
    /// [`cantle_xenstore::xenbus::toolstack::create_device`]); `client` is this back end's own.
    ///
    /// # Errors
    ///
    /// [`BackendError`]: no such directory, or no descriptor is free.
    pub fn new(
        client: Arc<dyn Client>,
        event_channels: Arc<dyn EventChannels>,
        grants: Arc<dyn GrantMapper>,
        id: DeviceId,
        port: Box<dyn NetPort>,
    ) -> Result<Self, BackendError> {
        let poller = Arc::new(Poller::new()?);
        let again = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        poller.add(again.as_raw_fd(), Source::Again)?;
        let vif = Vif::new(id.frontend, event_channels, grants, port, poller.clone());
        let bus = xenbus::Backend::new(client, id, vif)?;
        poller.add(bus.event_fd().as_raw_fd(), Source::Bus)?;
        Ok(Self {
            bus,
            poller,
            again,
            broken: 0,
        })
    }

    /// Does what there is to do, and returns. Never blocks; its work is bounded by the rings' length. What is left over keeps
    /// the descriptor readable.
    ///
    /// # Errors
    ///
    /// [`BackendError`], never by the guest's doing. The call may be repeated.
    pub fn process(&mut self) -> Result<Phase, BackendError> {
        let ready = self.poller.wait(0)?;
        self.handle(ready)
    }

    /// Serves until `stop` is readable, or until the toolstack has taken the device away. Call it on a thread of its own.
    ///
    /// # Errors
    ///
    /// As for [`process`](Self::process).
    pub fn run(&mut self, stop: &EventFd) -> Result<(), BackendError> {
        self.poller.add(stop.as_raw_fd(), Source::Stop)?;
        let result = self.serve();
        self.poller.remove(stop.as_raw_fd());
        result
    }

    /// The state of the back end's side in xenbus.
    #[must_use]
    pub fn state(&self) -> XenbusState {
        self.bus.state()
    }

    /// The counters, to be read by any thread, also while the back end runs and after it.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        self.bus.device().stats().clone()
    }

    fn serve(&mut self) -> Result<(), BackendError> {
        loop {
            let ready = self.poller.wait(-1)?;
            if ready.has(Source::Stop) {
                return Ok(());
            }
            if self.handle(ready)? == Phase::Finished {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, ready: Ready) -> Result<Phase, BackendError> {
        if ready.has(Source::Again) {
            // Cannot fail, since it is readable; were it empty, there would be nothing to do about it either.
            let _ = self.again.read();
        }
        let mut phase = Phase::Running(self.bus.state());
        if ready.has(Source::Bus) {
            phase = self.bus.process()?;
        }
        match self.bus.device_mut().serve(ready) {
            Ok(false) => {}
            Ok(true) => self.again.write(1)?,
            Err(error) => {
                self.broken += 1;
                // A guest that breaks its rings for ever is logged ever more rarely.
                if self.broken.is_power_of_two() {
                    tracing::warn!(broken = self.broken, %error, "ring given up");
                }
                phase = self.bus.close()?;
            }
        }
        Ok(phase)
    }
}

impl AsRawFd for Backend {
    fn as_raw_fd(&self) -> RawFd {
        self.poller.as_raw_fd()
    }
}
