//! An image that fails and dawdles as it is told.

use std::fmt;
use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::{BlockImage, Completion, Finished, Geometry, ImageError, Io};

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the image below does it.
    Pass,
    /// It fails so, without reaching the image below.
    Fail(ImageError),
    /// It is held back until [`Faults::release`].
    Hold,
}

type Plan = Box<dyn FnMut(&Io) -> Fault + Send>;

/// Decides about the requests of a [`FaultImage`], from any thread.
pub struct Faults {
    plan: Mutex<Plan>,
    held: Mutex<Held>,
    released: OwnedFd,
}

#[derive(Default)]
struct Held {
    waiting: Vec<Io>,
    released: Vec<Io>,
}

impl Faults {
    /// Asks `plan` about each request from now on.
    pub fn plan(&self, plan: impl FnMut(&Io) -> Fault + Send + 'static) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(plan);
    }

    /// How many requests are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lists().waiting.len()
    }

    /// Lets the requests held back go on, and passes those to come.
    pub fn release(&self) {
        self.plan(|_| Fault::Pass);
        let mut lists = self.lists();
        let waiting = std::mem::take(&mut lists.waiting);
        lists.released.extend(waiting);
        drop(lists);
        // A counter of 1 is never full.
        let _ = rustix::io::write(&self.released, &1_u64.to_ne_bytes());
    }

    fn lists(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

/// An image over another one that does to each request what its [`Faults`] say.
#[derive(Debug)]
pub struct FaultImage<I> {
    inner: I,
    faults: Arc<Faults>,
    failed: Finished,
    any: OwnedFd,
}

impl<I: BlockImage> FaultImage<I> {
    /// Wraps `inner`; every request passes until [`Faults::plan`] says otherwise.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub fn new(inner: I) -> Result<Self> {
        let failed = Finished::new()?;
        let released = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for fd in [inner.completion_fd(), failed.fd(), released.as_fd()] {
            epoll::add(
                &any,
                fd,
                epoll::EventData::new_u64(0),
                epoll::EventFlags::IN,
            )?;
        }
        let faults = Faults {
            plan: Mutex::new(Box::new(|_| Fault::Pass)),
            held: Mutex::default(),
            released,
        };
        Ok(Self {
            inner,
            faults: Arc::new(faults),
            failed,
            any,
        })
    }

    /// Where the requests' fates are decided.
    #[must_use]
    pub fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults)
    }
}

impl<I: BlockImage> BlockImage for FaultImage<I> {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn queue(&mut self, io: Io) {
        let fault = {
            let mut plan = self
                .faults
                .plan
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            (*plan)(&io)
        };
        match fault {
            Fault::Pass => self.inner.queue(io),
            Fault::Fail(error) => self.failed.push(Completion {
                io,
                result: Err(error),
            }),
            Fault::Hold => self.faults.lists().waiting.push(io),
        }
    }

    fn submit(&mut self) -> Result<()> {
        self.failed.publish()?;
        self.inner.submit()
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        let mut count = [0; 8];
        if rustix::io::read(&self.faults.released, &mut count).is_ok() {
            let released = std::mem::take(&mut self.faults.lists().released);
            for io in released {
                self.inner.queue(io);
            }
        }
        self.failed.collect(done);
        self.inner.completions(done);
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }
}
