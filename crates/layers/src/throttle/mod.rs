//! How fast a disk may be.

mod bucket;
mod limits;
mod queue;

use std::fmt;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cantle_image::{BlockImage, Disk, Geometry};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

pub use bucket::Bucket;
pub use limits::Limits;
use limits::{Line, Way};
use queue::ThrottledQueue;

/// A disk that does no more than its [`Limits`], which can be changed at any time.
///
/// They are for the disk as a whole: its queues share them, and each of those that wait gets as much as the others. Within a queue,
/// requests reach the disk in the order in which they came. Where there is no limit, a request takes the way it takes without this layer.
pub struct Throttle<D> {
    inner: D,
    gate: Arc<Gate>,
}

/// Changes the limits of a [`Throttle`] while it works.
#[derive(Clone)]
pub struct ThrottleHandle {
    gate: Arc<Gate>,
}

/// What all queues pass.
struct Gate {
    lines: Mutex<Lines>,
    /// Whether there is any limit.
    limited: AtomicBool,
    began: Instant,
}

#[derive(Default)]
struct Lines {
    limits: Limits,
    read: Line,
    write: Line,
    queues: Vec<Known>,
    /// How many queues there were.
    opened: u64,
}

/// A queue as the gate knows it.
struct Known {
    number: u64,
    timer: Arc<OwnedFd>,
    /// Its first request may pass, and is paid for.
    passes: bool,
    /// Where its last read and write ended.
    finish: [u128; 2],
}

impl<D: Disk> Throttle<D> {
    /// A disk that does no more than these.
    #[must_use]
    pub fn new(inner: D, limits: Limits) -> Self {
        let gate = Gate {
            lines: Mutex::default(),
            limited: AtomicBool::new(false),
            began: Instant::now(),
        };
        gate.set(limits);
        Self {
            inner,
            gate: Arc::new(gate),
        }
    }

    /// By which its limits are changed.
    #[must_use]
    pub fn handle(&self) -> ThrottleHandle {
        ThrottleHandle {
            gate: Arc::clone(&self.gate),
        }
    }
}

impl<D: Disk> Disk for Throttle<D> {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn open_queue(&self) -> Result<Box<dyn BlockImage>> {
        let inner = self.inner.open_queue()?;
        Ok(Box::new(ThrottledQueue::new(
            inner,
            Arc::clone(&self.gate),
        )?))
    }
}

impl ThrottleHandle {
    /// The limits as they are.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.gate.lines().limits
    }

    /// Other limits, for what waits, too.
    pub fn set(&self, limits: Limits) {
        self.gate.set(limits);
    }
}

impl Gate {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, limits: Limits) {
        let now = self.began.elapsed();
        let mut lines = self.lines();
        let l = limits;
        lines.limits = l;
        lines.read.set(
            (l.read_bps, l.read_bps_burst),
            (l.read_iops, l.read_iops_burst),
            now,
        );
        lines.write.set(
            (l.write_bps, l.write_bps_burst),
            (l.write_iops, l.write_iops_burst),
            now,
        );
        let any = l.read_bps != 0 || l.write_bps != 0 || l.read_iops != 0 || l.write_iops != 0;
        // Nothing else goes by it; a queue that sees it late is one that asked earlier.
        self.limited.store(any, Ordering::Relaxed);
        lines.pump(now);
        lines.set_timers(now);
    }

    /// A new queue, with its timer: its number.
    fn join(&self, timer: Arc<OwnedFd>) -> u64 {
        let mut lines = self.lines();
        let number = lines.opened;
        lines.opened += 1;
        lines.queues.push(Known {
            number,
            timer,
            passes: false,
            finish: [0; 2],
        });
        number
    }

    fn leave(&self, queue: u64) {
        let now = self.began.elapsed();
        let mut lines = self.lines();
        lines.queues.retain(|known| known.number != queue);
        lines.read.leave(queue);
        lines.write.leave(queue);
        lines.set_timers(now);
    }

    /// Whether a queue's first request may pass now. If not, the queue's timer will tell when to look with [`passes`](Self::passes).
    fn ask(&self, queue: u64, way: Way, bytes: u64) -> bool {
        if !self.limited.load(Ordering::Relaxed) {
            return true;
        }
        let now = self.began.elapsed();
        let mut lines = self.lines();
        lines.pump(now);
        let Lines {
            read,
            write,
            queues,
            ..
        } = &mut *lines;
        let Some(known) = queues.iter_mut().find(|known| known.number == queue) else {
            return true;
        };
        let [read_finish, write_finish] = &mut known.finish;
        let (line, finish) = match way {
            Way::Read => (read, read_finish),
            Way::Write => (write, write_finish),
        };
        let passes = line.ask(queue, bytes, finish, now);
        if !passes {
            lines.set_timers(now);
        }
        passes
    }

    /// Whether the request that [`ask`](Self::ask) made wait may pass now. Said once.
    fn passes(&self, queue: u64) -> bool {
        let now = self.began.elapsed();
        let mut lines = self.lines();
        lines.pump(now);
        let known = lines.queues.iter_mut().find(|known| known.number == queue);
        let passes = known.is_none_or(|known| std::mem::take(&mut known.passes));
        if !passes {
            lines.set_timers(now);
        }
        passes
    }
}

impl Lines {
    /// Lets pass what may. Whoever comes by does it for all, so that no queue waits for another one's thread.
    fn pump(&mut self, now: Duration) {
        for line in [&mut self.read, &mut self.write] {
            while let Some(queue) = line.next(now) {
                if let Some(known) = self.queues.iter_mut().find(|known| known.number == queue) {
                    known.passes = true;
                    alarm(&known.timer, Duration::ZERO);
                }
            }
        }
    }

    /// Sets the timer of each queue that waits.
    fn set_timers(&self, now: Duration) {
        for (queue, wait) in self
            .read
            .waits(now)
            .into_iter()
            .chain(self.write.waits(now))
        {
            if let Some(known) = self.queues.iter().find(|known| known.number == queue) {
                alarm(&known.timer, wait);
            }
        }
    }
}

/// Makes a timer readable after a time.
fn alarm(timer: &OwnedFd, wait: Duration) {
    // 0 would switch it off; a day is as good as any longer time: one looks again then.
    set_timer(
        timer,
        wait.clamp(Duration::from_nanos(1), Duration::from_secs(86400)),
    );
}

/// Makes a timer unreadable for good.
fn disarm(timer: &OwnedFd) {
    set_timer(timer, Duration::ZERO);
}

fn set_timer(timer: &OwnedFd, wait: Duration) {
    let it_value = Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    };
    let spec = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value,
    };
    if let Err(error) = timerfd_settime(timer, TimerfdTimerFlags::empty(), &spec) {
        tracing::error!(%error, "a timer cannot be set: a throttled queue may stand still");
    }
}

impl<D> fmt::Debug for Throttle<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("limits", &self.gate.lines().limits)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ThrottleHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleHandle")
            .field("limits", &self.limits())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
