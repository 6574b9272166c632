//! A port for tests: it keeps what is sent to it, and gives what a test puts in.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::pieces::scatter;
use super::{Frame, NetPort, Received};
use crate::{Offload, Offloads, Part, PartMut};

/// A frame with its metadata, as it went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its metadata.
    pub offload: Offload,
}

#[derive(Debug, Default)]
struct State {
    sent: Vec<Recorded>,
    waiting: VecDeque<Recorded>,
    accepted: Offloads,
    link: bool,
    refuse: bool,
    /// How often `receive` was called: a back end that must not read can be seen not to.
    asked: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    readable: OwnedFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port itself, to be given to a back end. What a test does with it goes through its [`RecorderHandle`].
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
}

/// A test's end of a [`Recorder`].
#[derive(Clone, Debug)]
pub struct RecorderHandle {
    shared: Arc<Shared>,
}

impl Recorder {
    /// A new port, with the test's end of it.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub fn new() -> io::Result<(Self, RecorderHandle)> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            readable: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let handle = RecorderHandle {
            shared: shared.clone(),
        };
        Ok((Self { shared }, handle))
    }
}

impl RecorderHandle {
    /// Takes what has been sent so far.
    #[must_use]
    pub fn take_sent(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.shared.lock().sent)
    }

    /// Waits until at least `count` frames have been sent, and takes them all; what there is after `patience`.
    #[must_use]
    pub fn wait_sent(&self, count: usize, patience: Duration) -> Vec<Recorded> {
        let until = Instant::now() + patience;
        let mut state = self.shared.lock();
        while state.sent.len() < count {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                break;
            };
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::take(&mut state.sent)
    }

    /// Puts a frame where the back end finds it.
    pub fn inject(&self, frame: Recorded) {
        self.shared.lock().waiting.push_back(frame);
        // It can fail only where the counter is full, and is readable then.
        let _ = rustix::io::write(&self.shared.readable, &1_u64.to_ne_bytes());
    }

    /// How many frames wait to be taken by the back end.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// How often the back end has asked for a frame.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.shared.lock().asked
    }

    /// What the back end last said its front end can do.
    #[must_use]
    pub fn accepted(&self) -> Offloads {
        self.shared.lock().accepted
    }

    /// Whether the back end says that its front end is there.
    #[must_use]
    pub fn link(&self) -> bool {
        self.shared.lock().link
    }

    /// Makes the port refuse what is sent to it, or take it again.
    pub fn refuse(&self, refuse: bool) {
        self.shared.lock().refuse = refuse;
    }
}

impl NetPort for Recorder {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        let mut state = self.shared.lock();
        for frame in batch {
            frame.taken = !state.refuse;
            if state.refuse {
                continue;
            }
            let mut bytes = vec![0; frame.len];
            let copied = Part::copy_all(frame.parts.iter().copied(), &mut bytes);
            bytes.truncate(copied);
            let offload = frame.offload;
            state.sent.push(Recorded { bytes, offload });
        }
        self.shared.changed.notify_all();
    }

    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        let mut state = self.shared.lock();
        state.asked += 1;
        let Some(frame) = state.waiting.pop_front() else {
            let _ = rustix::io::read(&self.shared.readable, &mut [0; 8]);
            return Ok(Received::Nothing);
        };
        Ok(if scatter(&frame.bytes, into) {
            Received::Frame {
                len: frame.bytes.len(),
                offload: frame.offload,
            }
        } else {
            Received::Lost
        })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.readable.as_fd())
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.shared.lock().accepted = offloads;
        Ok(())
    }

    fn set_link(&mut self, up: bool) {
        self.shared.lock().link = up;
    }
}
