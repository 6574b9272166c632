//! The guest's console: the ring that its hvc driver uses, and the emergency console, on one output.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use cantle_abi::io::console::{XENCONS_IN, XENCONS_OUT};
use cantle_abi::ring::RingBroken;
use cantle_evtchn::Channel;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::memory::HeapSlice;
use crate::services::add;

/// How long a blocked output is waited for before it is looked whether the guest still runs.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Where console output goes; both consoles write here, a piece at a time.
pub(crate) struct ConsoleOutput {
    fd: OwnedFd,
    turn: Mutex<()>,
}

impl ConsoleOutput {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            turn: Mutex::new(()),
        }
    }

    /// Writes all of it, unless the output is gone or `give_up` says so while it is blocked.
    pub(crate) fn write(&self, bytes: &[u8], give_up: impl Fn() -> bool) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
            match poll(&mut fds, Some(&PATIENCE)) {
                // Interrupted: perhaps by the end of the domain, and the output may still be full.
                Ok(0) | Err(rustix::io::Errno::INTR) => {
                    if give_up() {
                        return;
                    }
                    continue;
                }
                Ok(_) => {}
                Err(_) => return,
            }
            match rustix::io::write(&self.fd, rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                // Nobody reads any more; the guest need not care.
                Err(_) => return,
            }
        }
    }
}

impl fmt::Debug for ConsoleOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleOutput")
            .field("fd", &self.fd.as_raw_fd())
            .finish_non_exhaustive()
    }
}

/// The host's end of the console ring.
pub(crate) struct ConsoleRing<F> {
    page: HeapSlice,
    channel: Box<dyn Channel>,
    output: Arc<ConsoleOutput>,
    input: Option<OwnedFd>,
    /// Input that did not fit in the ring yet.
    pending: Vec<u8>,
    ended: F,
    broken: bool,
    /// The input is a file, which no event loop waits for.
    regular: bool,
}

impl<F: Fn() -> bool> ConsoleRing<F> {
    pub(crate) fn new(
        page: HeapSlice,
        channel: Box<dyn Channel>,
        output: Arc<ConsoleOutput>,
        input: OwnedFd,
        ended: F,
    ) -> Self {
        Self {
            page,
            channel,
            output,
            input: Some(input),
            pending: Vec::new(),
            ended,
            broken: false,
            regular: false,
        }
    }

    /// Moves bytes both ways as far as they go, and tells the guest if any did.
    pub(crate) fn pump(&mut self) {
        if self.broken {
            return;
        }
        let moved = self.pump_out().and_then(|out| Ok(out | self.pump_in()?));
        match moved {
            Ok(true) => {
                // A guest that closed its end learns of the bytes when it opens it again.
                let _ = self.channel.notify();
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "the console ring's indices are impossible; it is no longer served");
                self.broken = true;
            }
        }
    }

    fn pump_out(&mut self) -> Result<bool, RingBroken> {
        let mut moved = false;
        let mut buf = [0; 2048];
        // Two rounds empty the ring; a guest that goes on writing signals again.
        for _ in 0..2 {
            let n = XENCONS_OUT.read(&self.page, &mut buf)?;
            if n == 0 {
                break;
            }
            self.output
                .write(buf.get(..n).unwrap_or_default(), &self.ended);
            moved = true;
        }
        Ok(moved)
    }

    fn pump_in(&mut self) -> Result<bool, RingBroken> {
        if self.regular && self.pending.is_empty() && !self.take_input() {
            self.input = None;
        }
        if self.pending.is_empty() {
            return Ok(false);
        }
        let n = XENCONS_IN.write(&self.page, &self.pending)?;
        self.pending.drain(..n);
        Ok(n > 0)
    }

    /// Takes what there is to read; false at the end of the input.
    fn take_input(&mut self) -> bool {
        let Some(input) = &self.input else {
            return false;
        };
        let mut buf = [0; 256];
        match rustix::io::read(input, &mut buf) {
            Ok(0) => false,
            Ok(n) => {
                self.pending
                    .extend_from_slice(buf.get(..n).unwrap_or_default());
                true
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => true,
            Err(_) => false,
        }
    }

    fn input_fd(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }
}

const CHANNEL: u32 = 0;
const INPUT: u32 = 1;

impl<F: Fn() -> bool> ConsoleRing<F> {
    /// Watches the input only while what was read has gone into the ring: a guest that does not read holds its terminal up.
    fn watch_input(&mut self, ops: &mut EventOps<'_>) {
        let Some(fd) = self.input_fd().map(|fd| fd.as_raw_fd()) else {
            return;
        };
        let set = if self.pending.is_empty() {
            EventSet::IN
        } else {
            EventSet::empty()
        };
        if let Err(error) = ops.modify(Events::with_data_raw(fd, INPUT, set)) {
            tracing::warn!(?error, "the console's input cannot be waited for");
        }
    }
}

impl<F: Fn() -> bool> MutEventSubscriber for ConsoleRing<F> {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.data() == INPUT {
            if !self.take_input() {
                // The descriptor is closed next, which takes it out of the loop's set in any case.
                drop(ops.remove(Events::with_data_raw(events.fd(), INPUT, EventSet::IN)));
                self.input = None;
            }
        } else {
            self.channel.take();
        }
        self.pump();
        if !self.regular {
            self.watch_input(ops);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.channel.eventfd().as_raw_fd(), CHANNEL);
        let Some(input) = self.input_fd().map(|fd| fd.as_raw_fd()) else {
            return;
        };
        // epoll refuses what is always readable, like a file: that is read as the guest empties the ring.
        self.regular = ops
            .add(Events::with_data_raw(input, INPUT, EventSet::IN))
            .is_err();
    }
}

impl<F> Drop for ConsoleRing<F> {
    /// The guest's last words: what it wrote just before it ended.
    fn drop(&mut self) {
        let mut buf = [0; 2048];
        if !self.broken
            && let Ok(n) = XENCONS_OUT.read(&self.page, &mut buf)
        {
            self.output.write(buf.get(..n).unwrap_or_default(), || true);
        }
    }
}

#[cfg(test)]
mod tests;
