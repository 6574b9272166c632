//! What was captured and is not written yet: a bounded number of bytes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Part;

/// What a record costs beside its frame's bytes, at most.
const RECORD_LEN: usize = 64;

/// Which way a frame goes, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest sent it.
    Sent,
    /// It came for the guest.
    Received,
}

/// One captured frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// When, since 1970.
    pub(super) time: Duration,
    pub(super) direction: Direction,
    /// How many bytes there are of it,
    pub(super) captured: usize,
    /// of how many.
    pub(super) len: usize,
    /// How many were lost just before it.
    pub(super) lost: u64,
}

/// Frames in order, their bytes one after the other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    pub(super) bytes: Vec<u8>,
}

impl Batch {
    fn cost(&self) -> usize {
        self.bytes.len() + self.records.len() * RECORD_LEN
    }

    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.bytes.clear();
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    /// Frames lost since the last that was kept.
    lost: u64,
    lost_in_all: u64,
    /// No more is taken: the file is given up, or nobody captures any more.
    closed: bool,
}

/// The way from the ports to the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    bytes_max: usize,
    snaplen: usize,
}

/// What the writer is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Write,
    Flush,
    End,
}

impl Queue {
    pub(super) fn new(bytes_max: usize, snaplen: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            bytes_max,
            snaplen,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a frame of `len` bytes, or as much as is wanted of it. It is lost where there is no room.
    pub(super) fn push<'a>(
        &self,
        direction: Direction,
        len: usize,
        parts: impl Iterator<Item = Part<'a>>,
    ) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let wanted = len.min(self.snaplen);
        let mut state = self.lock();
        let state = &mut *state;
        let batch = &mut state.waiting;
        let cost = batch
            .cost()
            .saturating_add(wanted)
            .saturating_add(RECORD_LEN);
        if state.closed || cost > self.bytes_max {
            state.lost = state.lost.saturating_add(1);
            state.lost_in_all = state.lost_in_all.saturating_add(1);
            return;
        }
        let start = batch.bytes.len();
        batch.bytes.resize(start + wanted, 0);
        let room = batch.bytes.get_mut(start..).unwrap_or_default();
        let captured = Part::copy_all(parts, room);
        // There may be fewer than was said.
        batch.bytes.truncate(start + captured);
        batch.records.push(Record {
            time: time.unwrap_or_default(),
            direction,
            captured,
            len,
            lost: std::mem::take(&mut state.lost),
        });
        // The writer looks again by itself before it waits.
        if batch.records.len() == 1 {
            self.changed.notify_one();
        }
    }

    /// Waits for something to write, and takes it in exchange for the empty `batch`; for so long at most, if a time is given.
    pub(super) fn next(&self, batch: &mut Batch, patience: Option<Duration>) -> Next {
        let mut state = self.lock();
        loop {
            if !state.waiting.records.is_empty() {
                std::mem::swap(&mut state.waiting, batch);
                return Next::Write;
            }
            if state.closed {
                return Next::End;
            }
            state = match patience {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let waited = self.changed.wait_timeout(state, patience);
                    let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() && state.waiting.records.is_empty() && !state.closed {
                        return Next::Flush;
                    }
                    state
                }
            };
        }
    }

    /// Takes no more. What waits is still written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Takes no more, and gives up what waits and these others.
    pub(super) fn give_up(&self, others: usize) {
        let mut state = self.lock();
        let lost = u64::try_from(others + state.waiting.records.len()).unwrap_or(u64::MAX);
        state.lost_in_all = state.lost_in_all.saturating_add(lost);
        state.waiting = Batch::default();
        state.closed = true;
    }

    pub(super) fn lost_in_all(&self) -> u64 {
        self.lock().lost_in_all
    }
}
