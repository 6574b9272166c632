//! What an embedder runs.

// UNSAFETY: the `EventFd` that stops a run lends its descriptor by number only.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use cantle_evtchn::EventChannels;
use cantle_grant::GrantMapper;
use cantle_netport::{NetDevice, NetPort};
pub use cantle_xenstore::xenbus::Progress;
use cantle_xenstore::xenbus::{self, DeviceId, Phase, XenbusState};
use cantle_xenstore::{Client, Error as StoreError};
use vmm_sys_util::eventfd::EventFd;

use crate::device::Vif;
use crate::handle::NetControl;
use crate::options::BackendOptions;
use crate::poller::{Patience, Poller, Ready, Source};
use crate::shared::Shared;
use crate::stats::Stats;

/// Why a back end cannot be made, or cannot go on. None of it is the guest's doing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// Xenstore refused something.
    #[error("xenstore failed")]
    Store(#[from] StoreError),
    /// The device opens no port.
    #[error("no port can be opened")]
    Device(#[source] io::Error),
    /// No descriptor is free, or waiting fails.
    #[error("cannot wait for events")]
    Poll(#[from] io::Error),
}

/// One interface's back end: from the xenbus handshake to the packets.
///
/// Its first queue needs no thread of its own: poll [`fd`](Self::fd) together with your other descriptors and call
/// [`process`](Self::process). Or lend it a thread, and call [`run`](Self::run).
///
/// A guest can end its own interface at most: a ring that breaks the protocol is given up, and the interface closes; a packet
/// that does is refused. Dropping the back end disconnects the guest.
#[derive(Debug)]
pub struct Backend {
    bus: xenbus::Backend<Vif>,
    poller: Arc<Poller>,
    shared: Arc<Shared>,
    /// The `mtu` that xenstore has.
    mtu: Option<u16>,
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
        let options = BackendOptions::default();
        Self::make(client, channels, grants, None, port, id, options)
    }

    /// As [`new`](Self::new), on a device that has a port for each queue, and with what `options` say. Each queue but the first has a
    /// thread of its own, which this crate starts.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and [`BackendError::Device`] where the device opens no port.
    pub fn with_device(
        client: Arc<dyn Client>,
        channels: Arc<dyn EventChannels>,
        grants: Arc<dyn GrantMapper>,
        device: Arc<dyn NetDevice>,
        id: DeviceId,
        options: BackendOptions,
    ) -> Result<Self, BackendError> {
        let port = device.open_queue().map_err(BackendError::Device)?;
        Self::make(client, channels, grants, Some(device), port, id, options)
    }

    fn make(
        client: Arc<dyn Client>,
        channels: Arc<dyn EventChannels>,
        grants: Arc<dyn GrantMapper>,
        device: Option<Arc<dyn NetDevice>>,
        port: Box<dyn NetPort>,
        id: DeviceId,
        options: BackendOptions,
    ) -> Result<Self, BackendError> {
        let poller = Arc::new(Poller::new()?);
        let shared = Arc::new(Shared::new(id.frontend, grants, options)?);
        let vif = Vif::new(
            channels,
            device,
            port,
            Arc::clone(&poller),
            Arc::clone(&shared),
        );
        let bus = xenbus::Backend::new(client, id, vif)?;
        poller.add(bus.event_fd(), Source::Bus)?;
        poller.add(shared.news.as_fd(), Source::News)?;
        Ok(Self {
            bus,
            poller,
            mtu: shared.mtu(),
            shared,
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
        Arc::clone(&self.shared.stats)
    }

    /// What may be said to the interface while it is served.
    #[must_use]
    pub fn control(&self) -> NetControl {
        NetControl {
            shared: Arc::clone(&self.shared),
        }
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
        if ready.has(Source::News) {
            self.republish()?;
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

    /// Publishes what the embedder has changed.
    fn republish(&mut self) -> Result<(), BackendError> {
        let mtu = self.shared.mtu();
        if let Some(now) = mtu.filter(|_| mtu != self.mtu) {
            self.bus
                .republish(&vec![("mtu".to_owned(), now.to_string())])?;
            self.mtu = mtu;
        }
        Ok(())
    }

    fn progress(&self, phase: Phase) -> Progress {
        match Progress::from(phase) {
            Progress::Idle if self.left_over => Progress::More,
            progress => progress,
        }
    }
}
