//! A disk at work: the handshake, the ring and the image, driven by one thread.

// UNSAFETY: the stop event comes from a crate that gives out its descriptor only as a bare number.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use cantle_evtchn::EventChannels;
use cantle_grant::GrantMapper;
use cantle_xenstore::prelude::*;
pub use cantle_xenstore::xenbus::Progress;
use cantle_xenstore::xenbus::{Backend as Xenbus, Device, DeviceId, Phase, XenbusState};
use cantle_xenstore::{Client, Error as StoreError, TxId};
use vmm_sys_util::eventfd::EventFd;

use crate::connect::Platform;
use crate::control::{DiskControl, Order, Shared};
use crate::image::{BlockImage, Disk, NullDisk};
use crate::options::BackendOptions;
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
/// When xenstore or the embedder has news, no new requests are taken until those in flight are over; then the handshake goes on. So a
/// disconnection never waits for the disk inside [`process`](Self::process), and never unmaps a page that the disk still writes to.
#[derive(Debug)]
pub struct Backend {
    bus: Xenbus<Vbd>,
    wakeups: Arc<Wakeups>,
    shared: Arc<Shared>,
    /// Xenstore or the embedder has news; they wait for what is in flight.
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
        let platform = Platform { channels, grants };
        Self::make(client, platform, image, None, id, BackendOptions::default())
    }

    /// As [`new`](Self::new), of a disk that can have several queues, whose medium may be [changed](DiskControl::insert), and with what
    /// `options` say. Where those allow several queues, each but the first has a thread of its own, which this crate starts.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and [`BackendError::Image`] where the disk has no queue.
    pub fn with_disk(
        client: Arc<dyn Client>,
        channels: Arc<dyn EventChannels>,
        grants: Arc<dyn GrantMapper>,
        disk: Arc<dyn Disk>,
        id: DeviceId,
        options: BackendOptions,
    ) -> Result<Self, BackendError> {
        let image = disk.open_queue().map_err(BackendError::Image)?;
        let platform = Platform { channels, grants };
        Self::make(client, platform, image, Some(disk), id, options)
    }

    fn make(
        client: Arc<dyn Client>,
        platform: Platform,
        image: Box<dyn BlockImage>,
        disk: Option<Arc<dyn Disk>>,
        id: DeviceId,
        mut options: BackendOptions,
    ) -> Result<Self, BackendError> {
        // The toolstack may say that discards are not to be offered.
        let enable = format!("{}/discard-enable", id.backend_path());
        if client.read_parsed::<u32>(TxId::NONE, &enable) == Ok(0) {
            options.discard = false;
        }
        let shared = Shared::new(options.on_error).map_err(BackendError::Poll)?;
        let shared = Arc::new(shared);
        let wakeups = Wakeups::new(image.completion_fd()).map_err(BackendError::Poll)?;
        let wakeups = Arc::new(wakeups);
        let vbd = Vbd::new(
            image,
            disk,
            platform,
            options,
            Arc::clone(&wakeups),
            Arc::clone(&shared),
        )
        .map_err(BackendError::Poll)?;
        let bus = Xenbus::new(client, id, vbd)?;
        wakeups
            .add(Source::Store, bus.event_fd())
            .map_err(BackendError::Poll)?;
        Ok(Self {
            bus,
            wakeups,
            shared,
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
        Arc::clone(&self.shared.stats)
    }

    /// What may be said to the disk while it is served.
    #[must_use]
    pub fn control(&self) -> DiskControl {
        DiskControl {
            shared: Arc::clone(&self.shared),
        }
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
        self.serve(false)
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
                match self.serve(true)? {
                    Progress::Finished => return Ok(()),
                    Progress::More => continue,
                    Progress::Idle => {}
                }
                let device = self.bus.device_mut();
                let woken = device
                    .wait(Some(wakeups.inner()))
                    .map_err(BackendError::Image)?;
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
        if ready.worker
            && let Some(error) = self.bus.device().worker_news()
        {
            self.failed(error)?;
        }
        if (ready.store || ready.control) && !self.is_settling() {
            self.settle(true)?;
            self.settling = true;
        }
        Ok(ready.stop)
    }

    fn is_settling(&self) -> bool {
        self.settling || self.broken
    }

    /// Begins or ends the time in which no requests are taken, and xenstore, the embedder and the front end's notifications wait: none of
    /// them is to keep a thread awake that waits for the disk.
    fn settle(&self, begin: bool) -> Result<(), BackendError> {
        let device = self.bus.device();
        if begin {
            device.begin_to_settle();
        }
        let store = (Source::Store, Some(self.bus.event_fd()));
        let control = (Source::Control, Some(self.shared.told()));
        for (source, fd) in [store, control, (Source::Channel, device.channel())] {
            if let Some(fd) = fd {
                self.wakeups
                    .hear(source, fd, !begin)
                    .map_err(BackendError::Poll)?;
            }
        }
        Ok(())
    }

    /// One step of the rings or, where there are news, of what they are about.
    fn serve(&mut self, may_look: bool) -> Result<Progress, BackendError> {
        if self.finished {
            return Ok(Progress::Finished);
        }
        if self.is_settling() {
            let device = self.bus.device_mut();
            device.settle().map_err(host_error)?;
            if device.is_busy() {
                return Ok(Progress::Idle);
            }
            if let Progress::Finished = self.settled()? {
                return Ok(Progress::Finished);
            }
        }
        match self.bus.device_mut().serve(may_look) {
            Ok(true) => Ok(Progress::More),
            Ok(false) => Ok(Progress::Idle),
            Err(error) => {
                self.failed(error)?;
                Ok(Progress::More)
            }
        }
    }

    /// A queue has stopped: its front end broke the ring, or the image takes no requests any more.
    fn failed(&mut self, error: QueueError) -> Result<(), BackendError> {
        let QueueError::Ring(error) = error else {
            return Err(host_error(error));
        };
        let times = self.bus.device().count_broken();
        if times.is_power_of_two() {
            tracing::warn!(device = ?self.bus.id(), times, %error, "disconnecting");
        }
        if !self.is_settling() {
            self.settle(true)?;
        }
        self.broken = true;
        Ok(())
    }

    /// Nothing is in flight: what was said may be done, and the handshake may disconnect.
    fn settled(&mut self) -> Result<Progress, BackendError> {
        let retry = self.carry_out()?;
        let phase = if self.broken {
            self.bus.device_mut().disconnect();
            self.bus.close()?
        } else {
            self.bus.process()?
        };
        self.broken = false;
        self.settling = false;
        self.settle(false)?;
        self.bus.device_mut().go_on(retry);
        Ok(self.progress(phase))
    }

    /// Does what the embedder has said; whether what the disk had stopped for is to be tried again.
    fn carry_out(&mut self) -> Result<bool, BackendError> {
        let (mut retry, mut changed) = (false, false);
        for order in self.shared.take_orders() {
            match order {
                Order::Resume => {
                    if self.shared.is_stopped() {
                        self.shared.start();
                        retry = true;
                    }
                }
                Order::Resized => changed = true,
                Order::Medium(disk, tell) => {
                    let disk = disk.unwrap_or_else(|| Arc::new(NullDisk { sectors: 0 }));
                    let outcome = self.bus.device_mut().change_disk(disk);
                    changed |= outcome.is_ok();
                    if let Err(error) = &outcome {
                        tracing::error!(device = ?self.bus.id(), %error, "the medium cannot be changed");
                    }
                    // There is room for one; who said it may not care.
                    let _ = tell.try_send(outcome);
                }
            }
        }
        if changed {
            let said = self.bus.device().properties();
            self.bus.republish(&said)?;
        }
        Ok(retry)
    }

    fn progress(&mut self, phase: Phase) -> Progress {
        if phase == Phase::Finished {
            self.finished = true;
            self.shared.end();
        }
        phase.into()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// An error of the queue that is not the guest's doing.
fn host_error(error: QueueError) -> BackendError {
    match error {
        QueueError::Image(error) => BackendError::Image(error),
        // What a front end did to its ring is handled where it comes.
        QueueError::Ring(error) => BackendError::Image(io::Error::other(error)),
    }
}
