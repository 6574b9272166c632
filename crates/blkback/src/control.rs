//! What an embedder may say to a disk that is being served, from any thread.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::{event, signal, take};
use crate::image::{Disk, ImageError};
use crate::options::OnError;
use crate::stats::{Stats, add};

/// What was said and not done yet.
pub(crate) enum Order {
    /// Try again what the disk stopped for.
    Resume,
    /// The medium is another: `None` for none. Whoever said it may wait to hear what came of it.
    Medium(Option<Arc<dyn Disk>>, SyncSender<io::Result<()>>),
    /// The medium that is there may have become larger.
    Resized,
}

/// What the queues of a disk, its backend and its [`DiskControl`]s have in common.
pub(crate) struct Shared {
    pub(crate) stats: Arc<Stats>,
    on_error: OnError,
    stopped: AtomicBool,
    /// The backend is gone: nobody does what is said. Written under the lock of `orders`.
    gone: AtomicBool,
    orders: Mutex<VecDeque<Order>>,
    /// For the backend: something was said.
    told: OwnedFd,
    /// For the embedder: the disk has stopped.
    stopped_event: OwnedFd,
}

impl Shared {
    pub(crate) fn new(on_error: OnError) -> io::Result<Self> {
        Ok(Self {
            stats: Arc::default(),
            on_error,
            stopped: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            orders: Mutex::default(),
            told: event()?,
            stopped_event: event()?,
        })
    }

    pub(crate) fn is_stopped(&self) -> bool {
        // Acquire: with `stops`, so that who sees a disk stopped sees what for.
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether the disk stops for this error; it is stopped then.
    pub(crate) fn stops(&self, error: &ImageError) -> bool {
        if !self.on_error.stops(error) {
            return false;
        }
        if !self.stopped.swap(true, Ordering::AcqRel) {
            add(&self.stats.stops, 1);
            tracing::error!(%error, "the disk has stopped; it waits to be resumed");
            signal(&self.stopped_event);
        }
        true
    }

    /// The disk goes on.
    pub(crate) fn start(&self) {
        self.stopped.store(false, Ordering::Release);
        take(&self.stopped_event);
    }

    /// Readable when something was said.
    pub(crate) fn told(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }

    /// What was said, in its order.
    pub(crate) fn take_orders(&self) -> VecDeque<Order> {
        take(&self.told);
        std::mem::take(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&self, order: Order) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gone.load(Ordering::Relaxed) {
            // Who waits for the outcome hears that there is none.
            return;
        }
        orders.push_back(order);
        drop(orders);
        signal(&self.told);
    }

    /// The backend is gone, and with it whatever was said.
    pub(crate) fn end(&self) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        self.gone.store(true, Ordering::Relaxed);
        orders.clear();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("on_error", &self.on_error)
            .field("stopped", &self.is_stopped())
            .finish_non_exhaustive()
    }
}

/// Changes a disk while it is served. From [`Backend::control`](crate::Backend::control), for any thread; what is said is done by the
/// disk's own, when nothing is in flight.
#[derive(Clone, Debug)]
pub struct DiskControl {
    pub(crate) shared: Arc<Shared>,
}

impl DiskControl {
    /// Whether the disk has stopped for an error ([`OnError::Stop`]) and waits.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopped()
    }

    /// Readable while the disk is stopped. Not to be read.
    #[must_use]
    pub fn stopped_event(&self) -> BorrowedFd<'_> {
        self.shared.stopped_event.as_fd()
    }

    /// Tries again what the disk stopped for, and goes on. Nothing for a disk that has not stopped.
    pub fn resume(&self) {
        self.shared.say(Order::Resume);
    }

    /// The medium has become larger, and [`Disk::geometry`] says so already: the front end is told.
    pub fn resized(&self) {
        self.shared.say(Order::Resized);
    }

    /// Puts a medium in, in the place of what is there: a CD, or a disk that has moved. The front end is told of its size and nature. Only
    /// for a backend that was made [of a disk](crate::Backend::with_disk).
    ///
    /// Requests go to the old one until the disk's thread has heard of it and what was in flight is over; the receiver tells when, and what
    /// came of it. It is disconnected where the backend is gone.
    pub fn insert(&self, medium: Arc<dyn Disk>) -> Receiver<io::Result<()>> {
        self.change(Some(medium))
    }

    /// Takes the medium out: a disk of no sectors is left. The receiver is as for [`insert`](Self::insert).
    pub fn eject(&self) -> Receiver<io::Result<()>> {
        self.change(None)
    }

    fn change(&self, medium: Option<Arc<dyn Disk>>) -> Receiver<io::Result<()>> {
        let (tell, hear) = sync_channel(1);
        self.shared.say(Order::Medium(medium, tell));
        hear
    }
}
