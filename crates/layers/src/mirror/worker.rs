//! The thread that copies.

use std::io::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cantle_image::Format;

use super::control::Control;
use super::copy::{CHUNK, Copier};
use super::resume::Shared;
use super::state::Stage;
use super::{MirrorError, MirrorOptions, fit, replace};
use crate::{DirtyTracker, LiveDisk};

/// How often the state is brought up to date.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// What the thread has.
pub(super) struct Worker {
    disk: Arc<dyn LiveDisk>,
    tracker: Arc<DirtyTracker>,
    target: Arc<dyn Format>,
    ledger: Option<Shared>,
    control: Arc<Control>,
    options: MirrorOptions,
    copier: Copier,
    synced: Instant,
    /// When the speed was last measured, and how much was copied then.
    measured: (Instant, u64),
}

impl Worker {
    pub(super) fn new(
        disk: Arc<dyn LiveDisk>,
        tracker: Arc<DirtyTracker>,
        target: Arc<dyn Format>,
        ledger: Option<Shared>,
        control: Arc<Control>,
        options: MirrorOptions,
    ) -> Self {
        let copier = Copier::new(Arc::clone(tracker.inner()), Arc::clone(&target));
        let measured = (Instant::now(), control.copied.load(Ordering::Relaxed));
        Self {
            disk,
            tracker,
            target,
            ledger,
            control,
            options,
            copier,
            synced: Instant::now(),
            measured,
        }
    }

    pub(super) fn run(mut self) -> Result<(), MirrorError> {
        let mut rounds = 0;
        loop {
            rounds += 1;
            self.control.round.fetch_add(1, Ordering::Relaxed);
            self.round()?;
            let little = self.tracker.dirty_bytes() <= self.options.rest;
            self.control.ready.store(little, Ordering::Relaxed);
            if self.options.ask {
                while self.tracker.dirty_bytes() == 0 && !self.control.ordered()? {}
            }
            let may = !self.options.ask || self.control.ordered()?;
            if may && (little || rounds >= self.options.rounds) {
                break;
            }
        }
        // Most of it, while the disk goes on.
        self.sync_point()?;
        self.switch()
    }

    /// Copies what is dirty, from the disk's beginning to its end.
    pub(super) fn round(&mut self) -> Result<(), MirrorError> {
        let mut at = 0;
        while self.step(&mut at)? {}
        self.sync_point()
    }

    /// Copies some of what is dirty from `at` on; whether there was any.
    pub(super) fn step(&mut self, at: &mut u64) -> Result<bool, MirrorError> {
        let taken = self.tracker.take(&*self.disk, *at, CHUNK as u64);
        let Some(range) = taken.map_err(MirrorError::Disk)? else {
            return Ok(false);
        };
        *at = range.end;
        let len = range.end - range.start;
        let paid = self.control.pay(len);
        let done = paid
            .and_then(|()| self.fitting(range.end))
            .and_then(|()| self.copier.copy(range.clone()));
        if done.is_err() {
            self.tracker.put_back(&range);
        }
        done?;
        self.account(len);
        if self.synced.elapsed() >= SYNC_EVERY {
            self.sync_point()?;
        }
        Ok(true)
    }

    /// Sees to it that the target goes as far: the source may have grown.
    fn fitting(&self, end: u64) -> Result<(), MirrorError> {
        if end > self.target.geometry().bytes() {
            fit(&**self.tracker.inner(), &*self.target)?;
        }
        Ok(())
    }

    fn account(&mut self, len: u64) {
        let copied = self
            .control
            .copied
            .fetch_add(len, Ordering::Relaxed)
            .saturating_add(len);
        let (since, before) = self.measured;
        let passed = since.elapsed();
        if passed >= Duration::from_millis(500) {
            let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
            let speed = copied.saturating_sub(before).saturating_mul(1000) / millis;
            self.control.speed.store(speed, Ordering::Relaxed);
            self.measured = (Instant::now(), copied);
        }
    }

    /// Makes durable what was copied, and notes it.
    pub(super) fn sync_point(&mut self) -> Result<(), MirrorError> {
        self.synced = Instant::now();
        let Some(ledger) = &self.ledger else {
            return self.target.flush().map_err(MirrorError::Target);
        };
        if let Some(error) = ledger.broken() {
            return Err(MirrorError::State(error));
        }
        let mut flushed = Ok(());
        let noted = ledger.sync_point(&self.tracker, || {
            // The source's too: what a crash takes back there is not what was copied.
            flushed = self.flush();
            // The reason is in `flushed`.
            flushed
                .as_ref()
                .map_or(Err(Error::other("a disk")), |()| Ok(()))
        });
        flushed?;
        noted.map_err(MirrorError::State)
    }

    fn flush(&self) -> Result<(), MirrorError> {
        self.tracker.flush().map_err(MirrorError::Source)?;
        self.target.flush().map_err(MirrorError::Target)
    }

    /// Copies the rest and puts the target in the source's place, while the disk stands still.
    pub(super) fn switch(&mut self) -> Result<(), MirrorError> {
        let disk = Arc::clone(&self.disk);
        let mut outcome = None;
        let done = disk.exclusive(&mut |slot| {
            let copied = self.rest();
            outcome = Some(copied.and_then(|()| {
                let on_top = replace(slot, &self.tracker, &self.target);
                if on_top {
                    self.finish(slot)
                } else {
                    Err(MirrorError::Covered)
                }
            }));
            Ok(())
        });
        match (outcome, done) {
            (Some(Ok(())), Err(error)) => {
                tracing::warn!(%error, "the disk has moved, and its new files cannot be used directly");
                Ok(())
            }
            (Some(outcome), _) => outcome,
            (None, done) => Err(MirrorError::Disk(
                done.err()
                    .unwrap_or_else(|| Error::other("nothing was done")),
            )),
        }
    }

    fn rest(&mut self) -> Result<(), MirrorError> {
        fit(&**self.tracker.inner(), &*self.target)?;
        while let Some(range) = self.tracker.clear_first(0, CHUNK as u64) {
            let len = range.end - range.start;
            if let Err(error) = self.copier.copy(range.clone()) {
                self.tracker.put_back(&range);
                return Err(error);
            }
            self.account(len);
        }
        self.target.flush().map_err(MirrorError::Target)
    }

    /// Says in the file that the target is the disk now: before the first write to it.
    fn finish(&self, slot: &mut Arc<dyn Format>) -> Result<(), MirrorError> {
        let Some(ledger) = &self.ledger else {
            return Ok(());
        };
        let noted = ledger.set_stage(Stage::Finished);
        if noted.is_err() {
            // It may say so or not: it is made to say that it is of no use.
            let tracker: Arc<DirtyTracker> = Arc::clone(&self.tracker);
            *slot = tracker;
            if let Err(error) = ledger.set_stage(Stage::GivenUp) {
                tracing::error!(%error, "a mirror's state file cannot be made invalid: it must not be used");
            }
        }
        noted.map_err(MirrorError::State)
    }
}
