//! A thread that serves one of an interface's further queues.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use cantle_abi::ring::RingBroken;

use crate::pair::Pair;
use crate::poller::{Patience, Poller};

/// Between the worker and the interface's own thread.
#[derive(Debug, Default)]
struct Link {
    stop: AtomicBool,
    failure: Mutex<Option<RingBroken>>,
}

/// A running worker. Dropping it ends its thread and closes its port.
#[derive(Debug)]
pub(crate) struct Worker {
    link: Arc<Link>,
    told: Arc<crate::event::Event>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread that serves a queue. A ring that is found broken is reported by the interface's `news`.
    pub(crate) fn start(pair: Pair) -> io::Result<Self> {
        let link = Arc::new(Link::default());
        let told = Arc::clone(&pair.told);
        let poller = Poller::new()?;
        pair.watch(&poller)?;
        let its = Arc::clone(&link);
        let thread = std::thread::Builder::new()
            .name("netback".to_owned())
            .spawn(move || work(pair, &poller, &its))?;
        Ok(Self {
            link,
            told,
            thread: Some(thread),
        })
    }

    /// Why it serves no more, if it has stopped by itself.
    pub(crate) fn take_failure(&self) -> Option<RingBroken> {
        let mut failure = self.link.failure.lock();
        failure.as_mut().map_or_else(
            |poisoned| poisoned.get_mut().take(),
            |failure| failure.take(),
        )
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Release: pairs with the load in `work`.
        self.link.stop.store(true, Ordering::Release);
        self.told.signal();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("an interface's thread panicked");
        }
    }
}

fn work(mut pair: Pair, poller: &Poller, link: &Link) {
    let mut again = false;
    loop {
        let patience = if again {
            Patience::None
        } else {
            Patience::Endless
        };
        let ready = match poller.wait(patience) {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!(%error, "an interface's queue cannot wait for events");
                return;
            }
        };
        if link.stop.load(Ordering::Acquire) {
            return;
        }
        match pair.serve(ready, again) {
            // It may have taken the signal that came with `stop`, together with an earlier one: looked at again before sleeping.
            Ok(_) if link.stop.load(Ordering::Acquire) => return,
            Ok(more) => again = more,
            Err(error) => {
                let mut failure = link.failure.lock().unwrap_or_else(PoisonError::into_inner);
                *failure = Some(error);
                drop(failure);
                pair.shared.news.signal();
                // The interface's own thread ends this one.
                return;
            }
        }
    }
}
