//! The requests that may have to wait, and the threads that do.

use std::collections::VecDeque;
use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::state::State;
use crate::{Completion, Io};

/// How long something that was written waits at most for the tables that say where it is to reach the medium.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// A buffer that was larger than this is given back.
const KEEP: usize = 1 << 20;

/// Requests that wait for a thread.
#[derive(Default)]
pub(super) struct Jobs {
    list: Mutex<List>,
    news: Condvar,
}

#[derive(Default)]
struct List {
    waiting: VecDeque<Job>,
    stopping: bool,
}

pub(super) struct Job {
    pub(super) io: Io,
    pub(super) to: Arc<Reply>,
}

/// Where a queue finds what the threads have done for it.
pub(super) struct Reply {
    done: Mutex<Vec<Completion>>,
    event: OwnedFd,
}

impl Reply {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            done: Mutex::default(),
            event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })
    }

    /// Readable when something is done.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn give(&self, completion: Completion) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push(completion);
        // Only the first needs to be told of: the reader takes all. A counter of 1 is never full.
        if done.len() == 1 {
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Takes all that is done.
    pub(super) fn take(&self) -> Vec<Completion> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if !done.is_empty() {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.event, &mut count);
        }
        std::mem::take(&mut done)
    }
}

impl Jobs {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands requests over.
    pub(super) fn give(&self, jobs: impl Iterator<Item = Job>) {
        let mut list = self.list();
        let before = list.waiting.len();
        list.waiting.extend(jobs);
        let added = list.waiting.len() - before;
        drop(list);
        for _ in 0..added {
            self.news.notify_one();
        }
    }

    /// Lets the threads end when all that was handed over is done.
    pub(super) fn stop(&self) {
        self.list().stopping = true;
        self.news.notify_all();
    }

    /// What each of the threads does.
    pub(super) fn work(&self, state: &State) {
        let mut buffer = Vec::new();
        loop {
            let Some(job) = self.next(state) else { return };
            let Job { io, to } = job;
            let result = state.carry_out(&io, &mut buffer);
            if buffer.capacity() > KEEP {
                buffer = Vec::new();
            }
            to.give(Completion { io, result });
        }
    }

    fn next(&self, state: &State) -> Option<Job> {
        let mut list = self.list();
        loop {
            if let Some(job) = list.waiting.pop_front() {
                return Some(job);
            }
            if list.stopping {
                return None;
            }
            let (now, timeout) = self
                .news
                .wait_timeout(list, FLUSH_EVERY)
                .unwrap_or_else(PoisonError::into_inner);
            list = now;
            if timeout.timed_out() && list.waiting.is_empty() && !list.stopping {
                drop(list);
                if let Err(error) = state.flush_if_dirty() {
                    tracing::warn!(%error, "an image could not be flushed");
                }
                list = self.list();
            }
        }
    }
}
