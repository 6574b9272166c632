//! An rx queue that several threads give frames to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cantle_abi::ring::RingBroken;
use cantle_evtchn::Channel;
use cantle_netport::{Frame, NetPort};

use super::queue::RxQueue;
use crate::event::Event;
use crate::pass::Pass;

/// An rx queue: its own thread moves what waits, any thread delivers.
pub(crate) struct RxShared {
    queue: Mutex<RxQueue>,
    channel: Arc<dyn Channel>,
    /// The queue's own thread is to look.
    told: Arc<Event>,
    broken: Mutex<Option<RingBroken>>,
}

impl std::fmt::Debug for RxShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RxShared")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RxShared {
    pub(crate) fn new(queue: RxQueue, channel: Arc<dyn Channel>, told: Arc<Event>) -> Self {
        Self {
            queue: Mutex::new(queue),
            channel,
            told,
            broken: Mutex::new(None),
        }
    }

    pub(crate) fn channel(&self) -> &dyn Channel {
        &*self.channel
    }

    /// The port's descriptor has become readable.
    pub(crate) fn port_ready(&self) {
        locked(&self.queue).port_ready();
    }

    /// What the queue's own thread does.
    pub(crate) fn process(&self, port: &mut dyn NetPort, now: Instant) -> Result<Pass, RingBroken> {
        self.move_on(port, true, now)
    }

    /// As [`process`](Self::process), of what was delivered only: the port is read by somebody else.
    pub(crate) fn process_delivered(
        &self,
        port: &mut dyn NetPort,
        now: Instant,
    ) -> Result<Pass, RingBroken> {
        self.move_on(port, false, now)
    }

    fn move_on(
        &self,
        port: &mut dyn NetPort,
        read: bool,
        now: Instant,
    ) -> Result<Pass, RingBroken> {
        if let Some(broken) = locked(&self.broken).take() {
            return Err(broken);
        }
        let pass = locked(&self.queue).process(port, read, now)?;
        if pass.notify {
            crate::notify(self.channel());
        }
        Ok(pass)
    }

    /// Takes frames from any thread. A ring that is found broken is the queue's own thread's to see to.
    pub(crate) fn deliver(&self, frames: &mut [Frame<'_>]) {
        let delivered = locked(&self.queue).deliver(frames, Instant::now());
        match delivered {
            Ok(pass) => {
                if pass.notify {
                    crate::notify(self.channel());
                }
                if pass.wake.is_some() {
                    self.told.signal();
                }
            }
            Err(error) => {
                *locked(&self.broken) = Some(error);
                self.told.signal();
            }
        }
    }
}
