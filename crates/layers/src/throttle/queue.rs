//! A queue that may have to wait.

use std::collections::VecDeque;
use std::fmt;
use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use cantle_abi::SharedMemory;
use cantle_image::{BlockImage, BufferId, Completion, Geometry, Io, IoOp};
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

use super::limits::Way;
use super::{Gate, disarm};

/// One queue of a throttled disk. Its timer is readable when its first waiting request may pass.
pub(super) struct ThrottledQueue {
    inner: Box<dyn BlockImage>,
    gate: Arc<Gate>,
    number: u64,
    timer: Arc<OwnedFd>,
    /// Readable when the inner image's descriptor or the timer is.
    any: OwnedFd,
    /// Requests that have not passed, in order. The first one has asked.
    waiting: VecDeque<Io>,
    /// What went wrong where no error can be said.
    failed: Result<()>,
}

impl ThrottledQueue {
    pub(super) fn new(inner: Box<dyn BlockImage>, gate: Arc<Gate>) -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = Arc::new(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for fd in [inner.completion_fd(), timer.as_fd()] {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&any, fd, data, epoll::EventFlags::IN)?;
        }
        let number = gate.join(Arc::clone(&timer));
        Ok(Self {
            inner,
            gate,
            number,
            timer,
            any,
            waiting: VecDeque::new(),
            failed: Ok(()),
        })
    }

    /// Whether a request may pass now; if not, it has asked.
    fn ask(&self, io: &Io) -> bool {
        let (way, bytes) = match io.op() {
            IoOp::Flush => return true,
            IoOp::Read => (Way::Read, io.bytes() as u64),
            IoOp::Write => (Way::Write, io.bytes() as u64),
            IoOp::Discard { .. } => (Way::Write, 0),
        };
        self.gate.ask(self.number, way, bytes)
    }

    /// Hands on what may pass; whether anything did.
    fn pass(&mut self) -> bool {
        if self.waiting.is_empty() || !self.gate.passes(self.number) {
            return false;
        }
        while let Some(io) = self.waiting.pop_front() {
            self.inner.queue(io);
            if !self.waiting.front().is_some_and(|next| self.ask(next)) {
                break;
            }
        }
        true
    }

    /// After the timer fired, or might have. The gate sets it again, which makes it unreadable, where a request waits.
    fn pass_and_submit(&mut self) {
        if !self.pass() {
            return;
        }
        if self.waiting.is_empty() {
            disarm(&self.timer);
        }
        if let Err(error) = self.inner.submit() {
            self.failed = Err(error);
        }
    }
}

impl BlockImage for ThrottledQueue {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn queue(&mut self, io: Io) {
        if self.waiting.is_empty() && self.ask(&io) {
            self.inner.queue(io);
        } else {
            self.waiting.push_back(io);
        }
    }

    fn submit(&mut self) -> Result<()> {
        std::mem::replace(&mut self.failed, Ok(()))?;
        self.inner.submit()
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        if !self.waiting.is_empty() {
            self.pass_and_submit();
        }
        self.inner.completions(done);
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }

    fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> Result<bool> {
        if self.waiting.is_empty() {
            std::mem::replace(&mut self.failed, Ok(()))?;
            return self.inner.wait(wake);
        }
        self.submit()?;
        let any = self.any.as_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(any, PollFlags::IN),
            PollFd::from_borrowed_fd(wake.unwrap_or(any), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [_, second] = fds;
        let awake = wake.is_some() && !second.revents().is_empty();
        self.pass_and_submit();
        Ok(awake)
    }

    fn register(&mut self, memory: &(dyn SharedMemory + Send + Sync)) -> Option<BufferId> {
        self.inner.register(memory)
    }

    fn unregister(&mut self, buffer: BufferId) {
        self.inner.unregister(buffer);
    }
}

impl Drop for ThrottledQueue {
    fn drop(&mut self) {
        self.gate.leave(self.number);
    }
}

impl fmt::Debug for ThrottledQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottledQueue")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}
