//! The device in the xenbus handshake: what is published, what is read from the front end, and the ring that comes of it.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::io::blkif::VDISK_READONLY;
use cantle_abi::ring::RingBroken;
use cantle_abi::{GrantRef, Port};
use cantle_evtchn::EventChannels;
use cantle_evtchn::EvtchnError;
use cantle_grant::GrantStatus;
use cantle_grant::{Access, GrantMapper};
use cantle_xenstore::Error as StoreError;
use cantle_xenstore::xenbus::{Device, DeviceError, Keys, OtherEnd};

use crate::image::BlockImage;
use crate::queue::{Queue, QueueError};
use crate::stats::{Stats, add};
use crate::wakeups::{Source, Wakeups};

/// How front ends with our ring layout call it. One that says nothing has the host's own, which is the same.
const PROTOCOL: &str = "x86_64-abi";

/// Why a front end could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A key is missing, is no number or cannot be read.
    #[error("the front end's keys cannot be used")]
    Keys(#[from] StoreError),
    /// Another ring layout.
    #[error("the front end's protocol is {0:?}; only \"x86_64-abi\" is offered")]
    Protocol(String),
    /// More pages or queues than were offered.
    #[error("the front end wants {wanted} for {key}; at most {most} was offered")]
    NotOffered {
        /// Which key.
        key: &'static str,
        /// What it said.
        wanted: u32,
        /// What was offered.
        most: u32,
    },
    /// The ring page cannot be mapped.
    #[error("the ring page {gref} cannot be mapped")]
    Page {
        /// Its grant.
        gref: GrantRef,
        /// What Xen's interface calls the failure.
        source: GrantStatus,
    },
    /// The event channel cannot be bound.
    #[error("the event channel {port} cannot be bound")]
    Channel {
        /// Its port in the front end's domain.
        port: Port,
        /// Why.
        source: EvtchnError,
    },
    /// The ring's indices are impossible from the start.
    #[error("the ring cannot be used")]
    Ring(#[from] RingBroken),
    /// The host could not listen to the channel.
    #[error("the event channel cannot be listened to")]
    Listen(#[source] io::Error),
    /// The image failed for good while the last connection ended.
    #[error("the image has failed")]
    Image,
}

/// A virtual disk: an image, and the ring of a front end where one is connected.
pub struct Vbd {
    image: Box<dyn BlockImage>,
    channels: Arc<dyn EventChannels>,
    grants: Arc<dyn GrantMapper>,
    wakeups: Arc<Wakeups>,
    queue: Option<Queue>,
    /// The image kept requests of a former connection: their completions must not meet a new one's.
    image_failed: bool,
    stats: Arc<Stats>,
}

impl Vbd {
    pub(crate) fn new(
        image: Box<dyn BlockImage>,
        channels: Arc<dyn EventChannels>,
        grants: Arc<dyn GrantMapper>,
        wakeups: Arc<Wakeups>,
    ) -> Self {
        Self {
            image,
            channels,
            grants,
            wakeups,
            queue: None,
            image_failed: false,
            stats: Arc::default(),
        }
    }

    /// The disk's counters, which outlive every connection and the disk itself.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Whether a front end's ring is attached.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.queue.is_some()
    }

    /// Requests that the image has.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.queue.as_ref().map_or(0, Queue::in_flight)
    }

    pub(crate) fn take_notification(&self) -> bool {
        self.queue.as_ref().is_some_and(Queue::take_notification)
    }

    /// [`Queue::pass`] where a ring is attached.
    pub(crate) fn pass(&mut self) -> Result<bool, QueueError> {
        match &mut self.queue {
            Some(queue) => queue.pass(&mut *self.image),
            None => Ok(false),
        }
    }

    /// [`Queue::settle`] where a ring is attached.
    pub(crate) fn settle(&mut self) -> Result<(), QueueError> {
        match &mut self.queue {
            Some(queue) => queue.settle(&mut *self.image),
            None => Ok(()),
        }
    }

    pub(crate) fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        self.image.wait(wake)
    }

    /// Counts a front end that broke its ring; how many there were.
    pub(crate) fn count_broken(&self) -> u64 {
        add(&self.stats.broken, 1);
        self.stats.snapshot().broken
    }

    /// Reads the keys and takes over what they name. On an error everything taken so far is given back.
    fn attach(&self, front: &OtherEnd<'_>) -> Result<Queue, ConnectError> {
        if self.image_failed {
            return Err(ConnectError::Image);
        }
        if let Some(protocol) = front.get("protocol")?
            && protocol != PROTOCOL
        {
            // It goes to the log; a guest does not fill that.
            return Err(ConnectError::Protocol(protocol.chars().take(32).collect()));
        }
        let offered = [("ring-page-order", 0), ("multi-queue-num-queues", 1)];
        for (key, most) in offered {
            if let Some(wanted) = front.optional::<u32>(key)?
                && wanted > most
            {
                return Err(ConnectError::NotOffered { key, wanted, most });
            }
        }
        // A front end that knows of larger rings may use their spelling for one page too.
        let gref = match front.optional("ring-ref")? {
            Some(gref) => GrantRef(gref),
            None => GrantRef(front.require("ring-ref0")?),
        };
        let port = Port(front.require("event-channel")?);
        let domain = front.domain();
        let page = self
            .grants
            .map(domain, gref, Access::ReadWrite)
            .map_err(|source| ConnectError::Page { gref, source })?;
        let channel = self
            .channels
            .bind_interdomain(domain, port)
            .map_err(|source| ConnectError::Channel { port, source })?;
        let grants = Arc::clone(&self.grants);
        let queue = Queue::attach(page, channel, grants, domain, Arc::clone(&self.stats))?;
        self.wakeups
            .add(Source::Channel, queue.eventfd())
            .map_err(ConnectError::Listen)?;
        Ok(queue)
    }

    fn size_keys(&self) -> Keys {
        let disk = self.image.geometry();
        let info = if disk.read_only { VDISK_READONLY } else { 0 };
        keys(&[
            ("sectors", disk.sectors),
            ("sector-size", 512),
            ("physical-sector-size", disk.physical_sector_size.into()),
            ("info", info.into()),
        ])
    }
}

impl Device for Vbd {
    fn describe(&self) -> Keys {
        let disk = self.image.geometry();
        let mut described = keys(&[
            ("feature-flush-cache", 1),
            ("feature-barrier", 0),
            ("feature-persistent", 0),
            ("feature-discard", disk.discard.into()),
            ("max-ring-page-order", 0),
        ]);
        if disk.discard {
            described.extend(keys(&[
                ("discard-granularity", disk.physical_sector_size.into()),
                ("discard-alignment", 0),
                ("discard-secure", 0),
            ]));
        }
        described
    }

    fn connect(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        // A second connection without an end of the first would leave two (XSA-350): there is one place, and it is emptied first.
        self.disconnect();
        self.queue = Some(self.attach(front)?);
        add(&self.stats.connects, 1);
        Ok(self.size_keys())
    }

    /// Gives ring, channel and pages back. Where requests are in flight it **blocks** until they are over;
    /// [`Backend`](crate::Backend) calls it only when none are.
    fn disconnect(&mut self) {
        let Some(mut queue) = self.queue.take() else {
            return;
        };
        self.wakeups.remove(queue.eventfd());
        if let Err(error) = queue.drain(&mut *self.image) {
            tracing::error!(%error, in_flight = queue.in_flight(), "the image does not finish");
            self.image_failed = true;
        }
    }
}

impl fmt::Debug for Vbd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vbd")
            .field("geometry", &self.image.geometry())
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

fn keys(list: &[(&str, u64)]) -> Keys {
    list.iter()
        .map(|(key, value)| ((*key).to_owned(), value.to_string()))
        .collect()
}
