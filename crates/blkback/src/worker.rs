//! A thread that serves one of a disk's further queues.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::event::{event, signal, take};
use crate::image::BlockImage;
use crate::lane::Lane;
use crate::queue::{Queue, QueueError};
use crate::spin::Spin;
use crate::wakeups::{Source, Wakeups};

/// A worker's queue and image.
pub(crate) struct Load {
    pub(crate) queue: Queue,
    pub(crate) image: Box<dyn BlockImage>,
}

/// What a worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Command {
    Serve = 0,
    /// Take no more requests; be idle when the image has none.
    Settle = 1,
    /// End, as things are.
    End = 2,
}

/// Between the worker and the disk's own thread.
struct Link {
    command: AtomicU8,
    /// How often it was told to settle.
    asked: AtomicU32,
    /// For which of these times the image has nothing of this queue, and no more is taken.
    idle: AtomicU32,
    /// What waited for the disk to go on is to be tried again.
    retry: AtomicBool,
    /// The image to go on with, where it is another.
    next_image: Mutex<Option<Box<dyn BlockImage>>>,
    failure: Mutex<Option<QueueError>>,
    told: OwnedFd,
    /// Signalled when the worker is idle or has failed.
    back: Arc<OwnedFd>,
}

impl Link {
    fn command(&self) -> Command {
        // Acquire: pairs with `order`.
        match self.command.load(Ordering::Acquire) {
            0 => Command::Serve,
            1 => Command::Settle,
            _ => Command::End,
        }
    }

    fn order(&self, command: Command) {
        self.command.store(command as u8, Ordering::Release);
        signal(&self.told);
    }

    fn next_image(&self) -> MutexGuard<'_, Option<Box<dyn BlockImage>>> {
        self.next_image
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) {
        signal(&self.back);
    }

    fn fail(&self, error: QueueError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.report();
    }
}

/// A running worker. Dropping it ends its thread, which then **blocks** until the image has nothing of it.
pub(crate) struct Worker {
    link: Arc<Link>,
    thread: Option<JoinHandle<Load>>,
}

impl Worker {
    /// Starts a thread that serves `load`, and signals `back` when it has news.
    pub(crate) fn start(load: Load, spin: Duration, back: Arc<OwnedFd>) -> io::Result<Self> {
        let link = Arc::new(Link {
            command: AtomicU8::new(Command::Serve as u8),
            asked: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            retry: AtomicBool::new(false),
            next_image: Mutex::default(),
            failure: Mutex::default(),
            told: event()?,
            back,
        });
        let wakeups = Wakeups::new(load.image.completion_fd())?;
        wakeups.add(Source::Channel, load.queue.eventfd())?;
        wakeups.add(Source::Control, link.told.as_fd())?;
        let its = Arc::clone(&link);
        let thread = std::thread::Builder::new()
            .name("blkback".to_owned())
            .spawn(move || work(load, &its, &wakeups, spin))?;
        Ok(Self {
            link,
            thread: Some(thread),
        })
    }

    /// No more requests are taken; [`is_idle`](Self::is_idle) when the image has none.
    pub(crate) fn settle(&self) {
        self.link.asked.fetch_add(1, Ordering::AcqRel);
        self.link.order(Command::Settle);
    }

    pub(crate) fn is_idle(&self) -> bool {
        // Acquire: what the worker did before is seen.
        self.link.idle.load(Ordering::Acquire) == self.link.asked.load(Ordering::Acquire)
    }

    /// Why it takes no more requests, if it has stopped by itself.
    pub(crate) fn take_failure(&self) -> Option<QueueError> {
        self.link
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Another image in the present one's place, from the next [`go_on`](Self::go_on) on. The worker is idle.
    pub(crate) fn change_image(&self, image: Box<dyn BlockImage>) {
        *self.link.next_image() = Some(image);
    }

    /// Goes on after [`settle`](Self::settle).
    pub(crate) fn go_on(&self, retry: bool) {
        self.link.retry.fetch_or(retry, Ordering::AcqRel);
        self.link.order(Command::Serve);
    }

    /// Ends the thread and gives back what it served; `None` where it panicked.
    pub(crate) fn end(mut self) -> Option<Load> {
        self.join()
    }

    fn join(&mut self) -> Option<Load> {
        self.link.order(Command::End);
        let thread = self.thread.take()?;
        match thread.join() {
            Ok(mut load) => {
                // It has not come to it: whoever is served next is not to meet the old medium.
                take_next_image(&mut load, &self.link);
                Some(load)
            }
            Err(_) => {
                tracing::error!("a disk's thread panicked");
                None
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut load) = self.join()
            && let Err(error) = load.queue.drain(&mut *load.image)
        {
            tracing::error!(%error, "the image does not finish");
        }
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("idle", &self.is_idle())
            .finish_non_exhaustive()
    }
}

fn work(mut load: Load, link: &Link, wakeups: &Wakeups, spin: Duration) -> Load {
    let mut spin = Spin::new(spin);
    loop {
        let command = link.command();
        let outcome = match command {
            Command::End => return load,
            Command::Serve => {
                take_next_image(&mut load, link);
                serve(&mut load, link, wakeups, &mut spin)
            }
            Command::Settle => settle(&mut load, link, wakeups),
        };
        if let Err(error) = outcome {
            link.fail(error);
            // Until the disk's own thread says what comes of it.
            while link.command() == Command::Serve {
                sleep_until_told(link);
            }
        }
    }
}

/// Goes on with another image, where there is one. The present one has nothing: it was given while the worker was idle.
fn take_next_image(load: &mut Load, link: &Link) {
    if let Some(image) = link.next_image().take() {
        load.queue.leave_image(&mut *load.image);
        load.image = image;
    }
}

fn serve(
    load: &mut Load,
    link: &Link,
    wakeups: &Wakeups,
    spin: &mut Spin,
) -> Result<(), QueueError> {
    let Load { queue, image } = load;
    let mut lane = Lane {
        queue,
        image: &mut **image,
    };
    while link.command() == Command::Serve {
        // Each time: one that is told to settle and to go on again may never have come to rest in between.
        if link.retry.swap(false, Ordering::AcqRel) {
            lane.queue.retry(lane.image);
        }
        if lane.serve(spin)? {
            continue;
        }
        if lane.sleep(Some(wakeups.inner()))? {
            lane.queue.take_notification();
            take(&link.told);
        }
    }
    Ok(())
}

fn settle(load: &mut Load, link: &Link, wakeups: &Wakeups) -> Result<(), QueueError> {
    take(&link.told);
    while link.command() == Command::Settle {
        // Before it is looked whether the queue is at rest: it is for this time that it then is.
        let asked = link.asked.load(Ordering::Acquire);
        load.queue.settle(&mut *load.image)?;
        if load.queue.with_image() == 0 {
            if link.idle.swap(asked, Ordering::AcqRel) != asked {
                link.report();
            }
            sleep_until_told(link);
        } else if load.image.wait(Some(wakeups.inner()))? {
            // A guest's notification is no reason to go round and round: it is found when one goes on.
            load.queue.take_notification();
            take(&link.told);
        }
    }
    Ok(())
}

fn sleep_until_told(link: &Link) {
    use rustix::event::{PollFd, PollFlags, poll};
    let told: BorrowedFd<'_> = link.told.as_fd();
    let mut fds = [PollFd::from_borrowed_fd(told, PollFlags::IN)];
    let _ = poll(&mut fds, None);
    take(&link.told);
}
