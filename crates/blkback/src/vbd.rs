//! The device in the xenbus handshake: what is published, and the queues that come of a front end's answer.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use cantle_xenstore::xenbus::{Device, DeviceError, Keys, OtherEnd};

use crate::connect::{ConnectError, Platform};
use crate::control::Shared;
use crate::image::{BlockImage, Disk, Geometry};
use crate::lane::Lane;
use crate::negotiate;
use crate::options::BackendOptions;
use crate::queue::{Queue, QueueError};
use crate::ring::Ends;
use crate::spin::Spin;
use crate::stats::add;
use crate::wakeups::{Source, Wakeups};
use crate::worker::{Load, Worker};

/// A virtual disk: an image, and the rings of a front end where one is connected. The first queue is served by the backend's own thread,
/// each other one by a thread of its own.
pub(crate) struct Vbd {
    /// What the queues' images come from; `None`: there is one image and no other.
    disk: Option<Arc<dyn Disk>>,
    /// The first queue's.
    image: Box<dyn BlockImage>,
    /// Of queues that there are not now.
    spare_images: Vec<Box<dyn BlockImage>>,
    platform: Platform,
    options: BackendOptions,
    wakeups: Arc<Wakeups>,
    queue: Option<Queue>,
    workers: Vec<Worker>,
    /// Signalled by workers.
    worker_news: Arc<OwnedFd>,
    spin: Spin,
    /// The image kept requests of a former connection: their completions must not meet a new one's.
    image_failed: bool,
    pub(crate) shared: Arc<Shared>,
}

impl Vbd {
    pub(crate) fn new(
        image: Box<dyn BlockImage>,
        disk: Option<Arc<dyn Disk>>,
        platform: Platform,
        options: BackendOptions,
        wakeups: Arc<Wakeups>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let worker_news = Arc::new(crate::event::event()?);
        wakeups.add(Source::Worker, worker_news.as_fd())?;
        wakeups.add(Source::Control, shared.told())?;
        let mut options = options.within_limits();
        if disk.is_none() {
            options.max_queues = 1;
        }
        Ok(Self {
            disk,
            image,
            spare_images: Vec::new(),
            platform,
            options,
            wakeups,
            queue: None,
            workers: Vec::new(),
            worker_news,
            spin: Spin::new(options.spin),
            image_failed: false,
            shared,
        })
    }

    /// Requests that are with the image of one of the queues, as far as is known.
    pub(crate) fn is_busy(&self) -> bool {
        self.queue
            .as_ref()
            .is_some_and(|queue| queue.with_image() != 0)
            || self.workers.iter().any(|worker| !worker.is_idle())
    }

    pub(crate) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.queue.as_ref().map(Queue::eventfd)
    }

    pub(crate) fn take_notification(&self) -> bool {
        self.queue.as_ref().is_some_and(Queue::take_notification)
    }

    /// Takes note of what workers have said: why one of them has stopped by itself, if one has.
    pub(crate) fn worker_news(&self) -> Option<QueueError> {
        crate::event::take(&self.worker_news);
        self.workers.iter().find_map(Worker::take_failure)
    }

    /// One step of the first queue: [`Lane::serve`] where the caller may look for a while, else a pass.
    pub(crate) fn serve(&mut self, may_look: bool) -> Result<bool, QueueError> {
        let Some(queue) = &mut self.queue else {
            return Ok(false);
        };
        let mut lane = Lane {
            queue,
            image: &mut *self.image,
        };
        if may_look {
            lane.serve(&mut self.spin)
        } else {
            Ok(lane.queue.pass(lane.image)? || lane.queue.arm())
        }
    }

    /// Lets the other queues come to rest.
    pub(crate) fn begin_to_settle(&self) {
        for worker in &self.workers {
            worker.settle();
        }
    }

    /// A step of the first queue's coming to rest.
    pub(crate) fn settle(&mut self) -> Result<(), QueueError> {
        match &mut self.queue {
            Some(queue) => queue.settle(&mut *self.image),
            None => Ok(()),
        }
    }

    /// All queues go on after they had come to rest; with what the disk had stopped for, where it is resumed.
    pub(crate) fn go_on(&mut self, retry: bool) {
        if retry && let Some(queue) = &mut self.queue {
            queue.retry(&mut *self.image);
        }
        for worker in &self.workers {
            worker.go_on(retry);
        }
    }

    pub(crate) fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        self.image.wait(wake)
    }

    /// Counts a front end that broke its ring; how many there were.
    pub(crate) fn count_broken(&self) -> u64 {
        add(&self.shared.stats.broken, 1);
        self.shared.stats.snapshot().broken
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.options.kind.limit(self.image.geometry())
    }

    /// What is to be published of the disk as it is now.
    pub(crate) fn properties(&self) -> Keys {
        let disk = self.geometry();
        let mut said = negotiate::properties(&disk, self.options.kind);
        said.extend(negotiate::discards(&disk, self.options.discard));
        said
    }

    /// Puts another disk in the place of the present one. All queues are at rest, and go on with it.
    pub(crate) fn change_disk(&mut self, disk: Arc<dyn Disk>) -> io::Result<()> {
        if self.disk.is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // All that may fail first.
        let image = disk.open_queue()?;
        let mut images = Vec::new();
        for _ in &self.workers {
            images.push(disk.open_queue()?);
        }
        if let Some(queue) = &mut self.queue {
            queue.leave_image(&mut *self.image);
        }
        self.wakeups
            .change_image(self.image.completion_fd(), image.completion_fd())?;
        self.image = image;
        self.spare_images.clear();
        self.disk = Some(disk);
        for (worker, image) in self.workers.iter().zip(images) {
            worker.change_image(image);
        }
        Ok(())
    }

    fn start_worker(&mut self, queue: Queue, image: Box<dyn BlockImage>) -> io::Result<()> {
        let back = Arc::clone(&self.worker_news);
        let worker = Worker::start(Load { queue, image }, self.options.spin, back)?;
        self.workers.push(worker);
        Ok(())
    }

    /// Takes over what the front end's keys name. On an error everything taken so far is given back.
    fn attach(&mut self, front: &OtherEnd<'_>) -> Result<(), ConnectError> {
        if self.image_failed {
            return Err(ConnectError::Image);
        }
        let (ends, persistent) = self.platform.take_over(front, &self.options)?;
        for (n, ends) in ends.into_iter().enumerate() {
            let queue = self.queue_of(ends, persistent);
            if n == 0 {
                self.wakeups
                    .add(Source::Channel, queue.eventfd())
                    .map_err(ConnectError::Host)?;
                self.queue = Some(queue);
                continue;
            }
            let image = match (self.spare_images.pop(), &self.disk) {
                (Some(image), _) => image,
                (None, Some(disk)) => disk.open_queue().map_err(ConnectError::Host)?,
                (None, None) => return Err(ConnectError::Image),
            };
            self.start_worker(queue, image)
                .map_err(ConnectError::Host)?;
        }
        Ok(())
    }

    fn queue_of(&self, ends: Ends, persistent: bool) -> Queue {
        let grants = Arc::clone(&self.platform.grants);
        let shared = Arc::clone(&self.shared);
        Queue::new(ends, grants, persistent, &self.options, shared)
    }
}

impl Device for Vbd {
    fn describe(&self) -> Keys {
        negotiate::offer(&self.geometry(), &self.options)
    }

    fn connect(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        // A second connection without an end of the first would leave two (XSA-350): there is one place, and it is emptied first.
        self.disconnect();
        if let Err(error) = self.attach(front) {
            self.disconnect();
            return Err(error.into());
        }
        add(&self.shared.stats.connects, 1);
        Ok(self.properties())
    }

    /// Gives rings, channels and pages back. Where requests are in flight it **blocks** until they are over;
    /// [`Backend`](crate::Backend) calls it only when none are.
    fn disconnect(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            let Some(Load {
                mut queue,
                mut image,
            }) = worker.end()
            else {
                continue;
            };
            match queue.drain(&mut *image) {
                Ok(()) => self.spare_images.push(image),
                // It is dropped, and with it goes what it kept.
                Err(error) => tracing::error!(%error, "a queue's image does not finish"),
            }
        }
        if let Some(mut queue) = self.queue.take() {
            self.wakeups.remove(queue.eventfd());
            if let Err(error) = queue.drain(&mut *self.image) {
                tracing::error!(%error, in_flight = queue.in_flight(), "the image does not finish");
                self.image_failed = true;
            }
        }
        // Whoever comes next has not seen what the disk had stopped for.
        self.shared.start();
    }
}

impl fmt::Debug for Vbd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vbd")
            .field("geometry", &self.image.geometry())
            .field("queue", &self.queue)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}
