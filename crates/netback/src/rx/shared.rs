//! An rx queue that several threads give frames to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cantle_abi::ring::RingBroken;
use cantle_evtchn::Channel;
use cantle_netport::{Frame, NetPort};

use super::queue::RxQueue;
use crate::event::Event;
use crate::pass::Pass;

/// The queue, and when its own thread looks at it again by itself.
#[derive(Debug)]
struct Watched {
    queue: RxQueue,
    wake: Option<Instant>,
}

/// An rx queue: its own thread moves what waits, any thread delivers.
pub(crate) struct RxShared {
    queue: Mutex<Watched>,
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
            queue: Mutex::new(Watched { queue, wake: None }),
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
        locked(&self.queue).queue.port_ready();
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
        let pass = {
            let mut watched = locked(&self.queue);
            let pass = watched.queue.process(port, read, now)?;
            watched.wake = pass.wake;
            pass
        };
        if pass.notify {
            crate::notify(self.channel());
        }
        Ok(pass)
    }

    /// Takes frames from any thread. A ring that is found broken is the queue's own thread's to see to.
    pub(crate) fn deliver(&self, frames: &mut [Frame<'_>]) {
        let delivered = {
            let mut watched = locked(&self.queue);
            let delivered = watched.queue.deliver(frames, Instant::now());
            delivered.map(|pass| (pass, watched.is_late(pass.wake)))
        };
        match delivered {
            Ok((pass, late)) => {
                if pass.notify {
                    crate::notify(self.channel());
                }
                if late {
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

impl Watched {
    /// Whether the queue's own thread is to look earlier than it would. It is told once, not for each frame that waits.
    fn is_late(&mut self, when: Option<Instant>) -> bool {
        let late = match (when, self.wake) {
            (Some(when), Some(known)) => when < known,
            (when, None) => when.is_some(),
            (None, _) => false,
        };
        if late {
            self.wake = when;
        }
        late
    }
}
