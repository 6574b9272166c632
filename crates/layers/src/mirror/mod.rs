//! A live disk moves to another place.

mod control;
mod copy;
mod resume;
mod state;
mod worker;

use std::io::Error;
use std::sync::Arc;
use std::thread::JoinHandle;

use cantle_image::Format;

#[cfg(any(test, feature = "test-utils"))]
pub(crate) use state::parse as parse_state;
pub use state::{MirrorState, Stage, StateError};

use crate::bitmap::Bitmap;
use crate::live::{is, take_off};
use crate::{DirtyTracker, Granularity, LiveDisk};
use control::Control;
use resume::Shared;
use worker::Worker;

/// How a [`Mirror`] copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorOptions {
    /// The unit in which is noted what was written meanwhile.
    pub granularity: Granularity,
    /// Bytes per second, or 0 for as fast as it goes. It does not hold for the rest that is copied while the disk stands still.
    pub rate: u64,
    /// So many bytes may be left when the disk is made to stand still.
    pub rest: u64,
    /// After so many rounds it is made to stand still whatever is left.
    pub rounds: u32,
    /// Whether to wait for [`Mirror::switch`] when little is left, copying meanwhile what is written.
    pub ask: bool,
}

impl Default for MirrorOptions {
    /// Granules of 64 KiB, as fast as it goes, until 16 MiB are left or for 20 rounds, and the switch without being asked.
    fn default() -> Self {
        Self {
            granularity: Granularity::default(),
            rate: 0,
            rest: 16 << 20,
            rounds: 20,
            ask: false,
        }
    }
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes copied so far; what was written meanwhile is copied again and counts again.
    pub copied: u64,
    /// Bytes that are still to be copied, as of now.
    pub dirty: u64,
    /// The disk's size in bytes.
    pub total: u64,
    /// The round: 1 is the whole disk, each further one what was written in the one before.
    pub round: u32,
    /// Bytes per second, lately.
    pub rate: u64,
    /// Whether little is left, so that the switch would be short.
    pub ready: bool,
}

/// Why a copy ended. The disk goes on with its source as if nothing had been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// The source could not be read.
    #[error("the source cannot be read")]
    Source(#[source] Error),
    /// The target could not be written.
    #[error("the target cannot be written")]
    Target(#[source] Error),
    /// The file that it would go on by could not be written. If that cannot be said in the file either, it must not be used: see the log.
    #[error("the state cannot be kept")]
    State(#[source] Error),
    /// The disk could not be made to stand still, or to forget.
    #[error("the disk does not do its part")]
    Disk(#[source] Error),
    /// Source and target have different sizes, and the target did not become larger.
    #[error("the source has {source_bytes} bytes, the target {target_bytes}")]
    Size {
        /// The source's size.
        source_bytes: u64,
        /// The target's size.
        target_bytes: u64,
    },
    /// The state is of another disk, has smaller regions than the mirror's granules, or is of a copy that is over.
    #[error("the state does not fit: {0:?}, {1} bytes")]
    Unfit(Stage, u64),
    /// Another layer was put on top meanwhile; it is to go first.
    #[error("another layer is on top of the mirror")]
    Covered,
    /// [`Mirror::cancel`] was called.
    #[error("cancelled")]
    Cancelled,
}

/// A copy of a live disk to another place, under way in a thread of its own.
///
/// The disk is copied while it is written to; what was written meanwhile is copied again, in rounds, until little is left.
/// For that rest the disk stands still; then the target takes its place.
///
/// An error ends the thread, not the copy: what is written goes on to be noted, and [`retry`](Self::retry) goes on where it ended. Dropping the
/// value, or [`cancel`](Self::cancel), takes the layer off the disk and gives the copy up.
pub struct Mirror {
    disk: Arc<dyn LiveDisk>,
    tracker: Arc<DirtyTracker>,
    source: Arc<dyn Format>,
    target: Arc<dyn Format>,
    options: MirrorOptions,
    ledger: Option<Shared>,
    control: Arc<Control>,
    thread: Option<JoinHandle<Result<(), MirrorError>>>,
    over: bool,
}

impl Mirror {
    /// Begins to copy `disk` to `target`, which is of the same size or is made so, and is used by nobody else. With a state of an earlier
    /// attempt it copies only what that did not.
    ///
    /// # Errors
    ///
    /// [`MirrorError::Size`], [`MirrorError::Unfit`], [`MirrorError::State`], [`MirrorError::Disk`].
    pub fn start(
        disk: Arc<dyn LiveDisk>,
        target: Arc<dyn Format>,
        state: Option<MirrorState>,
        options: MirrorOptions,
    ) -> Result<Self, MirrorError> {
        let mut state = state;
        let mut begun = None;
        let put = disk.exclusive(&mut |slot| {
            let result = put_on(slot, &target, state.take(), options);
            begun = Some(result.map(|(tracker, ledger)| {
                let source = std::mem::replace(slot, tracker.clone());
                (tracker, ledger, source)
            }));
            Ok(())
        });
        let Some(begun) = begun else {
            return Err(MirrorError::Disk(
                put.err()
                    .unwrap_or_else(|| Error::other("nothing was done")),
            ));
        };
        let (tracker, ledger, source) = begun?;
        let mut mirror = Self {
            disk,
            tracker,
            source,
            target,
            options,
            ledger,
            control: Arc::new(Control::new(options.rate)),
            thread: None,
            over: false,
        };
        put.map_err(MirrorError::Disk)?;
        mirror.retry()?;
        Ok(mirror)
    }

    /// Goes on after an error. Does nothing while the copy is under way or when it is over.
    ///
    /// # Errors
    ///
    /// [`MirrorError::Disk`] where the host has no thread.
    pub fn retry(&mut self) -> Result<(), MirrorError> {
        if self.over || self.thread.is_some() {
            return Ok(());
        }
        let worker = Worker::new(
            Arc::clone(&self.disk),
            Arc::clone(&self.tracker),
            Arc::clone(&self.target),
            self.ledger.clone(),
            Arc::clone(&self.control),
            self.options,
        );
        let spawned = std::thread::Builder::new()
            .name("mirror".to_owned())
            .spawn(move || worker.run());
        self.thread = Some(spawned.map_err(MirrorError::Disk)?);
        Ok(())
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.control.progress(&self.tracker)
    }

    /// Copies so many bytes per second from now on; 0: as fast as it goes.
    pub fn set_rate(&self, rate: u64) {
        self.control.set_rate(rate);
    }

    /// Switches as soon as little is left, where [`MirrorOptions::ask`] said to wait for this.
    pub fn switch(&self) {
        self.control.switch();
    }

    /// Whether the thread has ended, so that [`wait`](Self::wait) does not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end. After `Ok` the disk is the target, which has been flushed.
    ///
    /// # Errors
    ///
    /// Why the copy does not go on: [`retry`](Self::retry), or give it up.
    pub fn wait(&mut self) -> Result<(), MirrorError> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let result = thread.join().unwrap_or_else(|_| {
            Err(MirrorError::Disk(Error::other(
                "the copying thread panicked",
            )))
        });
        self.over |= result.is_ok();
        result
    }

    /// Gives the copy up, unless it is over; whether it was over already, and the disk is the target.
    ///
    /// # Errors
    ///
    /// [`MirrorError::Disk`] where the layer could not be taken off. It is of no effect any more.
    pub fn cancel(mut self) -> Result<bool, MirrorError> {
        self.give_up()
    }

    /// Stops copying without giving up: the layer stays on the disk, and the state is brought up to date. For a disk that is about to be closed, to go on with the
    /// state when it is opened again.
    ///
    /// # Errors
    ///
    /// [`MirrorError::State`], also where it is the flush of one of the disks that failed.
    pub fn leave(mut self) -> Result<(), MirrorError> {
        self.stop();
        if !self.over
            && let Some(ledger) = &self.ledger
        {
            self.over = true;
            ledger
                .sync_point(&self.tracker, || {
                    self.tracker.flush().and_then(|()| self.target.flush())
                })
                .map_err(MirrorError::State)?;
        }
        self.over = true;
        Ok(())
    }

    /// Ends the thread.
    fn stop(&mut self) {
        self.control.cancel();
        // Its outcome is in `over`.
        let _ = self.wait();
    }

    fn give_up(&mut self) -> Result<bool, MirrorError> {
        self.stop();
        if std::mem::replace(&mut self.over, true) {
            return Ok(true);
        }
        // Before the first write that is not noted.
        let given_up = self
            .ledger
            .as_ref()
            .map_or(Ok(()), |ledger| ledger.set_stage(Stage::GivenUp));
        if let Err(error) = &given_up {
            tracing::error!(%error, "a mirror's state file cannot be made invalid: it must not be used");
        }
        // Nothing of it is asked for any more: where it is not on top, it stays and costs nothing.
        self.tracker.edit(|bits| bits.set(0..bits.len()));
        let layer = Arc::as_ptr(&self.tracker).cast::<()>();
        take_off(&*self.disk, layer, &self.source).map_err(MirrorError::Disk)?;
        given_up.map_err(MirrorError::State)?;
        Ok(false)
    }
}

/// Makes the layer for the disk's format.
fn put_on(
    source: &Arc<dyn Format>,
    target: &Arc<dyn Format>,
    state: Option<MirrorState>,
    options: MirrorOptions,
) -> Result<(Arc<DirtyTracker>, Option<Shared>), MirrorError> {
    fit(&**source, &**target)?;
    let (granularity, size) = (options.granularity, source.geometry().bytes());
    let Some(state) = state else {
        let bits = Bitmap::new(granularity.count(size), true);
        let tracker = DirtyTracker::with(Arc::clone(source), granularity, bits, size, None);
        return Ok((Arc::new(tracker), None));
    };
    let small = state.region().bytes() < granularity.bytes();
    if small || state.disk() > size || state.stage() != Stage::Copying {
        return Err(MirrorError::Unfit(state.stage(), state.disk()));
    }
    let (ledger, bits) = Shared::new(state, granularity, size).map_err(MirrorError::State)?;
    let gate = Box::new(ledger.clone());
    let tracker = DirtyTracker::with(Arc::clone(source), granularity, bits, size, Some(gate));
    Ok((Arc::new(tracker), Some(ledger)))
}

/// Makes the target as large as the source.
fn fit(source: &dyn Format, target: &dyn Format) -> Result<(), MirrorError> {
    let sectors = source.geometry().sectors;
    if target.geometry().sectors < sectors {
        // Where it cannot, its size says so.
        let _ = target.grow(sectors);
    }
    let (source_bytes, target_bytes) = (source.geometry().bytes(), target.geometry().bytes());
    if source_bytes == target_bytes {
        Ok(())
    } else {
        Err(MirrorError::Size {
            source_bytes,
            target_bytes,
        })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if !self.over
            && let Err(error) = self.give_up()
        {
            tracing::error!(%error, "a mirror could not be taken off its disk");
        }
    }
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror")
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

/// Puts the target where the mirror is, if it is on top.
fn replace(
    slot: &mut Arc<dyn Format>,
    tracker: &Arc<DirtyTracker>,
    target: &Arc<dyn Format>,
) -> bool {
    let on_top = is(slot, Arc::as_ptr(tracker).cast());
    if on_top {
        *slot = Arc::clone(target);
    }
    on_top
}

#[cfg(test)]
mod tests;
