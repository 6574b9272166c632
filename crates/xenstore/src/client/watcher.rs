//! Watches as iterators.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Client, WatchEvent, WatchExt};
use crate::Error;

/// How many events may wait for one watch before they are condensed to one.
const EVENTS_MAX: usize = 4096;

/// Deals a client's events out to watches, each an iterator of its own.
///
/// All events of the client go through it: do not call [`Client::take_event`] beside it. Clones are the same watcher.
///
/// ```
/// use std::time::Duration;
///
/// use cantle_xenstore::client::Watcher;
/// use cantle_xenstore::prelude::*;
/// use cantle_xenstore::{Shared, TxId};
/// # use cantle_abi::DomId;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let watcher = Watcher::new(Shared::default().client(DomId::DOM0)?);
/// let mut shutdown = watcher.watch("/control/shutdown")?;
/// assert_eq!(shutdown.next().unwrap().path, "/control/shutdown", "one event comes at once");
///
/// watcher.client().write(TxId::NONE, "/control/shutdown", b"poweroff")?;
/// assert!(shutdown.next_timeout(Duration::from_secs(1)).is_some());
/// assert_eq!(shutdown.try_next(), None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Watcher<C>(Arc<Inner<C>>);

#[derive(Debug)]
struct Inner<C> {
    client: C,
    queues: Mutex<Queues>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queues {
    by_token: HashMap<String, Queue>,
    /// One of the watches takes the client's events for all. Nobody else does, or it would not wake for what they took.
    taking: bool,
    next_token: u64,
}

#[derive(Debug)]
struct Queue {
    path: String,
    events: VecDeque<WatchEvent>,
}

impl<C> Clone for Watcher<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Client> Watcher<C> {
    /// Takes a client's events from now on.
    #[must_use]
    pub fn new(client: C) -> Self {
        Self(Arc::new(Inner {
            client,
            queues: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// The client, for requests.
    #[must_use]
    pub fn client(&self) -> &C {
        &self.0.client
    }

    /// Watches a path, and all below it, for as long as the returned value lives. One event comes at once.
    ///
    /// # Errors
    ///
    /// As for [`WatchExt::watch`].
    pub fn watch(&self, path: &str) -> Result<Watch<C>, Error> {
        self.set(path, |client, token| client.watch(path, token))
    }

    /// As [`watch`](Self::watch), to a limited depth.
    ///
    /// # Errors
    ///
    /// As for [`WatchExt::watch_depth`].
    pub fn watch_depth(&self, path: &str, depth: u32) -> Result<Watch<C>, Error> {
        self.set(path, |client, token| client.watch_depth(path, token, depth))
    }

    fn set(
        &self,
        path: &str,
        ask: impl FnOnce(&C, &str) -> Result<(), Error>,
    ) -> Result<Watch<C>, Error> {
        let mut queues = self.0.lock();
        let token = format!("watcher-{}", queues.next_token);
        queues.next_token += 1;
        let queue = Queue {
            path: path.to_owned(),
            events: VecDeque::new(),
        };
        queues.by_token.insert(token.clone(), queue);
        drop(queues);
        let asked = ask(&self.0.client, &token);
        if asked.is_err() {
            self.0.lock().by_token.remove(&token);
        }
        asked.map(|()| Watch {
            watcher: self.clone(),
            path: path.to_owned(),
            token,
        })
    }
}

impl<C> Inner<C> {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// Takes what the client has, and gives each its own.
    fn deal(&mut self, client: &impl Client) {
        while let Some(event) = client.take_event() {
            let Some(queue) = self.by_token.get_mut(&event.token) else {
                continue;
            };
            if queue.events.len() < EVENTS_MAX {
                queue.events.push_back(event);
            } else if let Some(last) = queue.events.back_mut() {
                // It says "look everywhere" from now on.
                last.path.clone_from(&queue.path);
            }
        }
    }

    fn next(&mut self, token: &str) -> Option<WatchEvent> {
        self.by_token.get_mut(token)?.events.pop_front()
    }
}

/// One watch of a [`Watcher`]; dropping it ends the watch.
///
/// As an iterator it waits for the next event, and ends when the connection is lost.
#[derive(Debug)]
pub struct Watch<C: Client> {
    watcher: Watcher<C>,
    path: String,
    token: String,
}

impl<C: Client> Watch<C> {
    /// What is watched.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The oldest event that waits. While another watch of the same watcher waits for its own, it is that which fetches
    /// events, and this one sees them a moment later.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        self.next_until(Some(Instant::now()))
    }

    /// Waits for an event, so long and no longer. `None`, too, where the connection is lost.
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<WatchEvent> {
        // A time that no clock reaches is for ever.
        self.next_until(Instant::now().checked_add(timeout))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Option<WatchEvent> {
        let inner = &*self.watcher.0;
        let mut queues = inner.lock();
        loop {
            if !queues.taking {
                queues.deal(&inner.client);
                inner.changed.notify_all();
            }
            if let Some(event) = queues.next(&self.token) {
                return Some(event);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) || !inner.client.is_connected() {
                return None;
            }
            queues = if queues.taking {
                wait(&inner.changed, queues, left)
            } else {
                queues.taking = true;
                drop(queues);
                wait_readable(&inner.client, left);
                let mut queues = inner.lock();
                queues.taking = false;
                queues
            };
        }
    }
}

impl<C: Client> Iterator for Watch<C> {
    type Item = WatchEvent;

    fn next(&mut self) -> Option<WatchEvent> {
        self.next_until(None)
    }
}

impl<C: Client> Drop for Watch<C> {
    fn drop(&mut self) {
        // It fails where the connection is lost, and the watch with it.
        let _ = self.watcher.client().unwatch(&self.path, &self.token);
        self.watcher.0.lock().by_token.remove(&self.token);
    }
}

fn wait<'a>(
    changed: &Condvar,
    queues: MutexGuard<'a, Queues>,
    left: Option<Duration>,
) -> MutexGuard<'a, Queues> {
    match left {
        None => changed.wait(queues).unwrap_or_else(PoisonError::into_inner),
        Some(left) => {
            let waited = changed.wait_timeout(queues, left);
            waited.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

fn wait_readable(client: &impl Client, left: Option<Duration>) {
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    let mut fds = [PollFd::from_borrowed_fd(client.event_fd(), PollFlags::IN)];
    // It fails by a signal; the caller looks at the client and the clock in any case.
    let _ = poll(&mut fds, left.as_ref());
}
