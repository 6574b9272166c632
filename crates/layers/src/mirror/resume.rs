//! Keeping the state file true while the disk is written.

use std::io::{Error, Result};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::state::{MirrorState, Stage};
use crate::bitmap::Bitmap;
use crate::dirty::Gate;
use crate::{DirtyTracker, Granularity};

/// The state file, with what it says.
pub(super) struct Ledger {
    state: MirrorState,
    granularity: Granularity,
    /// The regions that the file may say are copied. None of their granules is dirty.
    copied: Bitmap,
    /// The regions written since the last sync point began.
    touched: Bitmap,
    /// The file could not be kept true, and is not to be.
    lost: bool,
    /// Why, for the copying thread.
    broken: Option<Error>,
}

/// A [`Ledger`] that the disk's writes and the copy share.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Ledger>>);

impl Shared {
    /// The ledger of a disk of `disk` bytes, and the granules that are to be copied.
    pub(super) fn new(
        state: MirrorState,
        granularity: Granularity,
        disk: u64,
    ) -> Result<(Self, Bitmap)> {
        let mut copied = state.copied(disk)?;
        // Of what the disk has grown by, the file knows nothing, and its last region was smaller.
        let known = state.disk();
        if known < disk && !known.is_multiple_of(state.region().bytes()) {
            let cut = state.region().touched(known, 1);
            state.note(cut.clone(), false)?;
            state.sync()?;
            copied.clear(cut);
        }
        let mut dirty = Bitmap::new(granularity.count(disk), true);
        for run in copied.runs() {
            let bytes = state.region().bytes_of(run, disk);
            dirty.clear(granularity.within(bytes.start, bytes.end - bytes.start, disk));
        }
        let touched = Bitmap::new(copied.len(), false);
        let ledger = Ledger {
            state,
            granularity,
            copied,
            touched,
            lost: false,
            broken: None,
        };
        Ok((Self(Arc::new(Mutex::new(ledger))), dirty))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes as copied what is: no granule of it is dirty, before and after both disks were flushed, nor was in between.
    pub(super) fn sync_point(
        &self,
        tracker: &DirtyTracker,
        flush: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut clean = {
            let mut ledger = self.ledger();
            if ledger.lost {
                return Err(Error::other("the mirror's state is lost"));
            }
            let regions = ledger.copied.len();
            ledger.touched.clear(0..regions);
            let mut clean = Bitmap::new(regions, true);
            tracker.edit(|dirty| {
                for run in dirty.runs() {
                    clean.clear(ledger.regions(run));
                }
            });
            clean
        };
        flush()?;
        let mut ledger = self.ledger();
        let ledger = &mut *ledger;
        if ledger.lost {
            return Err(Error::other("the mirror's state is lost"));
        }
        for run in ledger.touched.runs().chain(ledger.copied.runs()) {
            clean.clear(run);
        }
        for run in clean.runs() {
            // May: so even where noting it fails.
            ledger.copied.set(run.clone());
            ledger.state.note(run, true)?;
        }
        ledger.state.sync()
    }

    pub(super) fn set_stage(&self, stage: Stage) -> Result<()> {
        self.ledger().state.set_stage(stage)
    }

    /// Why the file is of no use any more, if so. Said once.
    pub(super) fn broken(&self) -> Option<Error> {
        self.ledger().broken.take()
    }
}

impl Ledger {
    /// The regions that granules are in.
    fn regions(&self, granules: Range<u64>) -> Range<u64> {
        let bytes = self.granularity.bytes_of(granules, u64::MAX);
        self.state
            .region()
            .touched(bytes.start, bytes.end - bytes.start)
    }

    /// Takes back what the file says of regions.
    fn withdraw(&mut self, regions: Range<u64>) -> Result<()> {
        let mut noted = false;
        let mut at = regions.clone();
        loop {
            let run = self.copied.run(at.clone());
            if run.is_empty() {
                break;
            }
            at.start = run.end;
            self.state.note(run, false)?;
            noted = true;
        }
        if noted {
            self.state.sync()?;
            self.copied.clear(regions);
        }
        Ok(())
    }
}

impl Gate for Shared {
    /// Never fails: the disk is not to notice. What cannot be noted ends the copy, and its file.
    fn pass(&self, granules: Range<u64>, mark: &mut dyn FnMut()) -> Result<()> {
        let mut ledger = self.ledger();
        let regions = ledger.regions(granules);
        ledger.touched.set(regions.clone());
        if let Err(error) = ledger.withdraw(regions) {
            tracing::error!(%error, "a mirror's state is lost");
            let all = ledger.copied.len();
            ledger.copied.clear(0..all);
            ledger.lost = true;
            if let Err(error) = ledger.state.set_stage(Stage::GivenUp) {
                tracing::error!(%error, "a mirror's state file cannot be made invalid: it must not be used");
            }
            ledger.broken = Some(error);
        }
        mark();
        Ok(())
    }
}
