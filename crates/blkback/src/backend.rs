//! A disk at work: the handshake, the ring and the image, driven by one thread.

// UNSAFETY: the stop event comes from a crate that gives out its descriptor only as a bare number.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use cantle_evtchn::EventChannels;
use cantle_grant::GrantMapper;
pub use cantle_xenstore::xenbus::Progress;
use cantle_xenstore::xenbus::{Backend as Xenbus, Device, DeviceId, Phase, XenbusState};
use cantle_xenstore::{Client, Error as StoreError};
use vmm_sys_util::eventfd::EventFd;

use crate::image::BlockImage;
use crate::queue::QueueError;
use crate::stats::Stats;
use crate::vbd::Vbd;
use crate::wakeups::{Source, Wakeups};

/// How often [`Backend::run`] sleeps and serves the ring before it looks at everything else.
const ROUNDS: u32 = 32;

/// Why a backend cannot go on. Nothing that a guest does leads here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// Xenstore refused something.
    #[error("xenstore failed")]
    Store(#[from] StoreError),
    /// The image takes no requests any more.
    #[error("the image takes no requests")]
    Image(#[source] io::Error),
    /// The host has no descriptors left, or polling failed.
    #[error("cannot poll")]
    Poll(#[source] io::Error),
}

/// One virtual disk for one front end. What an embedder makes, and either polls or gives a thread.
///
/// When xenstore has news, no new requests are taken until those in flight are over; then the handshake goes on. So a
/// disconnection never waits for the disk inside [`process`](Self::process), and never unmaps a page that the disk still writes to.
#[derive(Debug)]
pub struct Backend {
    bus: Xenbus<Vbd>,
    wakeups: Arc<Wakeups>,
    /// Xenstore has news; they wait for what is in flight.
    settling: bool,
    /// The front end broke its ring; it is disconnected when nothing is in flight.
    broken: bool,
    /// The device was taken away.
    finished: bool,
}

impl Backend {
    /// Publishes the disk in xenstore and waits for its front end. The toolstack has made the device's directories.
    ///
    /// `client` is this device's own connection: its events are taken by this backend.
    ///
    /// # Errors
    ///
    /// [`BackendError::Store`] where the directories are missing; [`BackendError::Poll`] where no descriptor is free.
    pub fn new(
        client: Arc<dyn Client>,
        channels: Arc<dyn EventChannels>,
        grants: Arc<dyn GrantMapper>,
        image: Box<dyn BlockImage>,
        id: DeviceId,
    ) -> Result<Self, BackendError> {
        let wakeups = Wakeups::new(image.completion_fd()).map_err(BackendError::Poll)?;
        let wakeups = Arc::new(wakeups);
        let vbd = Vbd::new(image, channels, grants, Arc::clone(&wakeups));
        let bus = Xenbus::new(client, id, vbd)?;
        wakeups
            .add(Source::Store, bus.event_fd())
            .map_err(BackendError::Poll)?;
        Ok(Self {
            bus,
            wakeups,
            settling: false,
            broken: false,
            finished: false,
        })
    }

    /// Readable when [`process`](Self::process) has something to do. It stays the same for as long as the backend lives.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wakeups.outer()
    }

    /// The state published in xenstore.
    #[must_use]
    pub fn state(&self) -> XenbusState {
        self.bus.state()
    }

    /// The disk's counters. They may be read by any thread at any time, also after the backend is gone.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(self.bus.device().stats())
    }

    /// Asks the front end to let the disk go. It is served until then.
    ///
    /// # Errors
    ///
    /// [`BackendError::Store`].
    pub fn close(&mut self) -> Result<Progress, BackendError> {
        let phase = self.bus.close()?;
        Ok(self.progress(phase))
    }

    /// Does what is due, and never waits: at most one ring of requests, and a few steps of the handshake.
    ///
    /// # Errors
    ///
    /// [`BackendError`]. The call may be repeated.
    pub fn process(&mut self) -> Result<Progress, BackendError> {
        self.look()?;
        self.serve()
    }

    /// Serves the disk until it is taken away, or `stop` becomes readable (it is not read). The thread is the caller's.
    ///
    /// # Errors
    ///
    /// [`BackendError`].
    pub fn run(&mut self, stop: &EventFd) -> Result<(), BackendError> {
        // SAFETY: `stop` is borrowed, and so open, until this function returns.
        let stop = unsafe { BorrowedFd::borrow_raw(stop.as_raw_fd()) };
        let wakeups = Arc::clone(&self.wakeups);
        wakeups
            .add(Source::Stop, stop)
            .map_err(BackendError::Poll)?;
        let result = self.run_until_stopped(&wakeups);
        wakeups.remove(stop);
        result
    }

    fn run_until_stopped(&mut self, wakeups: &Wakeups) -> Result<(), BackendError> {
        loop {
            if self.look()? {
                return Ok(());
            }
            for _ in 0..ROUNDS {
                match self.serve()? {
                    Progress::Finished => return Ok(()),
                    Progress::More => continue,
                    Progress::Idle => {}
                }
                let wake = (!self.is_settling()).then(|| wakeups.inner());
                let device = self.bus.device_mut();
                let woken = device.wait(wake).map_err(BackendError::Image)?;
                if woken && !device.take_notification() {
                    // It is xenstore, or the end.
                    break;
                }
            }
        }
    }

    /// Takes note of what is readable; whether it is time to stop.
    fn look(&mut self) -> Result<bool, BackendError> {
        let ready = self.wakeups.look().map_err(BackendError::Poll)?;
        if ready.channel {
            self.bus.device().take_notification();
        }
        if ready.store && !self.is_settling() {
            self.settling = true;
            self.wakeups.listen(false).map_err(BackendError::Poll)?;
        }
        Ok(ready.stop)
    }

    fn is_settling(&self) -> bool {
        self.settling || self.broken
    }

    /// One step of the ring or, where xenstore has news, of the handshake.
    fn serve(&mut self) -> Result<Progress, BackendError> {
        if self.finished {
            return Ok(Progress::Finished);
        }
        if self.is_settling() {
            let device = self.bus.device_mut();
            device.settle().map_err(host_error)?;
            if device.in_flight() > 0 {
                return Ok(Progress::Idle);
            }
            if let Progress::Finished = self.settled()? {
                return Ok(Progress::Finished);
            }
        }
        match self.bus.device_mut().pass() {
            Ok(true) => Ok(Progress::More),
            Ok(false) => Ok(Progress::Idle),
            Err(QueueError::Ring(error)) => {
                let times = self.bus.device().count_broken();
                if times.is_power_of_two() {
                    tracing::warn!(device = ?self.bus.id(), times, %error, "disconnecting");
                }
                if !self.is_settling() {
                    self.wakeups.listen(false).map_err(BackendError::Poll)?;
                }
                self.broken = true;
                Ok(Progress::More)
            }
            Err(error) => Err(host_error(error)),
        }
    }

    /// Nothing is in flight: the handshake may disconnect.
    fn settled(&mut self) -> Result<Progress, BackendError> {
        let phase = if self.broken {
            self.bus.device_mut().disconnect();
            self.bus.close()?
        } else {
            self.bus.process()?
        };
        self.broken = false;
        self.settling = false;
        self.wakeups.listen(true).map_err(BackendError::Poll)?;
        Ok(self.progress(phase))
    }

    fn progress(&mut self, phase: Phase) -> Progress {
        self.finished |= phase == Phase::Finished;
        phase.into()
    }
}

/// An error of the queue that is not the guest's doing.
fn host_error(error: QueueError) -> BackendError {
    match error {
        QueueError::Image(error) => BackendError::Image(error),
        // `settle` does not read the ring; and `pass`'s own is handled where it comes.
        QueueError::Ring(error) => BackendError::Image(io::Error::other(error)),
    }
}
