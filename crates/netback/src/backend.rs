//! What an embedder runs.

// UNSAFETY: the `EventFd` that stops a run lends its descriptor by number only.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use cantle_evtchn::EventChannels;
use cantle_grant::GrantMapper;
pub use cantle_xenstore::xenbus::Progress;
use cantle_xenstore::xenbus::{self, DeviceId, Phase, XenbusState};
use cantle_xenstore::{Client, Error as StoreError};
use vmm_sys_util::eventfd::EventFd;

use crate::device::Vif;
use crate::poller::{Patience, Poller, Ready, Source};
use crate::stats::Stats;
use cantle_netport::NetPort;

/// Why a back end cannot be made, or cannot go on. None of it is the guest's doing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// Xenstore refused something.
    #[error("xenstore failed")]
    Store(#[from] StoreError),
    /// No descriptor is free, or waiting fails.
    #[error("cannot wait for events")]
    Poll(#[from] io::Error),
}

/// One interface's back end: from the xenbus handshake to the packets.
///
/// It needs no thread of its own: poll [`fd`](Self::fd) together with your other descriptors and call
/// [`process`](Self::process). Or lend it a thread, and call [`run`](Self::run).
///
/// A guest can end its own interface at most: a ring that breaks the protocol is given up, and the interface closes; a packet
/// that does is refused. Dropping the back end disconnects the guest.
#[derive(Debug)]
pub struct Backend {
    bus: xenbus::Backend<Vif>,
    poller: Arc<Poller>,
    /// The rings have more than one call may do.
    left_over: bool,
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
        channels: Arc<dyn EventChannels>,
        grants: Arc<dyn GrantMapper>,
        port: Box<dyn NetPort>,
        id: DeviceId,
    ) -> Result<Self, BackendError> {
        let poller = Arc::new(Poller::new()?);
        let vif = Vif::new(id.frontend, channels, grants, port, poller.clone());
        let bus = xenbus::Backend::new(client, id, vif)?;
        poller.add(bus.event_fd(), Source::Bus)?;
        Ok(Self {
            bus,
            poller,
            left_over: false,
            broken: 0,
        })
    }

    /// Readable when [`process`](Self::process) has something to do.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    /// Does what there is to do, and never waits: at most a ring of slots each way, and a few steps of the handshake.
    ///
    /// # Errors
    ///
    /// [`BackendError`], never by the guest's doing. The call may be repeated.
    pub fn process(&mut self) -> Result<Progress, BackendError> {
        let ready = self.poller.wait(Patience::None)?;
        self.handle(ready)
    }

    /// Serves until the device is taken away, or `stop` becomes readable (it is not read). The thread is the caller's.
    ///
    /// # Errors
    ///
    /// As for [`process`](Self::process).
    pub fn run(&mut self, stop: &EventFd) -> Result<(), BackendError> {
        // SAFETY: `stop` is borrowed, and so open, until this function returns.
        let stop = unsafe { BorrowedFd::borrow_raw(stop.as_raw_fd()) };
        self.poller.add(stop, Source::Stop)?;
        let result = self.serve_until_stopped();
        self.poller.remove(stop);
        result
    }

    /// The state published in xenstore.
    #[must_use]
    pub fn state(&self) -> XenbusState {
        self.bus.state()
    }

    /// The counters. They may be read by any thread at any time, also after the back end is gone.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        self.bus.device().stats().clone()
    }

    /// Asks the front end to let the interface go. It is served until then.
    ///
    /// # Errors
    ///
    /// What the store answered.
    pub fn close(&mut self) -> Result<Progress, BackendError> {
        let phase = self.bus.close()?;
        Ok(self.progress(phase))
    }

    fn serve_until_stopped(&mut self) -> Result<(), BackendError> {
        let mut progress = Progress::More;
        while progress != Progress::Finished {
            let patience = match progress {
                Progress::Idle => Patience::Endless,
                _ => Patience::None,
            };
            let ready = self.poller.wait(patience)?;
            if ready.has(Source::Stop) {
                return Ok(());
            }
            progress = self.handle(ready)?;
        }
        Ok(())
    }

    fn handle(&mut self, ready: Ready) -> Result<Progress, BackendError> {
        let mut phase = Phase::Running(self.bus.state());
        if ready.has(Source::Bus) {
            phase = self.bus.process()?;
        }
        let again = std::mem::take(&mut self.left_over);
        match self.bus.device_mut().serve(ready, again) {
            Ok(more) => self.left_over = more,
            Err(error) => {
                self.broken += 1;
                // A guest that breaks its rings for ever is logged ever more rarely.
                if self.broken.is_power_of_two() {
                    tracing::warn!(broken = self.broken, %error, "ring given up");
                }
                phase = self.bus.close()?;
            }
        }
        Ok(self.progress(phase))
    }

    fn progress(&self, phase: Phase) -> Progress {
        match Progress::from(phase) {
            Progress::Idle if self.left_over => Progress::More,
            progress => progress,
        }
    }
}
