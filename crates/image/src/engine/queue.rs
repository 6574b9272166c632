//! One queue of a format's disk.

use std::io::Result;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::SharedMemory;

use super::Shared;
use super::jobs::{Job, Reply};
use crate::uring::{Piece, Tag, Uring};
use crate::{BlockImage, BufferId, Caching, Completion, Durability, Geometry, Io, IoOp};

/// What a request that was refused is remembered with: it was never counted.
const REFUSED: Tag = Tag::MAX;

pub(super) struct FormatQueue {
    uring: Uring,
    reply: Arc<Reply>,
    /// Requests for the threads, until the next submission.
    slow: Vec<Io>,
    /// How many the threads have.
    away: usize,
    pieces: Vec<Piece>,
    shared: Arc<Shared>,
}

impl FormatQueue {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self> {
        let files = shared.state.files(0);
        let options = &shared.options;
        let mut uring = Uring::new(files, options.queue_depth, options.durability)?;
        let reply = Arc::new(Reply::new()?);
        uring.attach(reply.fd())?;
        Ok(Self {
            uring,
            reply,
            slow: Vec::new(),
            away: 0,
            pieces: Vec::new(),
            shared,
        })
    }

    /// Whether the ring knows every file that a piece names.
    fn knows_files(&mut self) -> bool {
        let most = self
            .pieces
            .iter()
            .map(|piece| usize::from(piece.file))
            .max();
        let Some(most) = most else { return true };
        if most >= self.uring.files() {
            for file in self.shared.state.files(self.uring.files()) {
                if let Err(error) = self.uring.add_file(file) {
                    tracing::warn!(%error, "an image has more files than io_uring takes");
                    break;
                }
            }
        }
        most < self.uring.files()
    }

    fn collect_slow(&mut self, done: &mut Vec<Completion>) {
        if self.away != 0 && self.uring.take_attached() {
            let finished = self.reply.take();
            self.away -= finished.len();
            done.extend(finished);
        }
    }
}

impl BlockImage for FormatQueue {
    fn geometry(&self) -> Geometry {
        self.shared.state.geometry()
    }

    fn queue(&mut self, io: Io) {
        let result = self.geometry().check(&io);
        let nothing = match io.op() {
            IoOp::Flush => self.shared.options.durability == Durability::Never,
            _ => io.sectors() == 0,
        };
        if nothing || result.is_err() {
            return self.uring.refuse(Completion { io, result }, REFUSED);
        }
        let short = match io.op() {
            IoOp::Read | IoOp::Write => self.shared.state.enter(&io, &mut self.pieces),
            IoOp::Flush | IoOp::Discard { .. } => None,
        };
        match short {
            None => self.slow.push(io),
            Some(epoch) if self.pieces.is_empty() => {
                io.zero(0, io.bytes());
                self.uring.refuse(Completion { io, result: Ok(()) }, epoch);
            }
            Some(epoch) if self.knows_files() => {
                self.uring.queue(io, epoch, self.pieces.drain(..));
            }
            Some(epoch) => {
                self.shared.state.left(epoch);
                self.slow.push(io);
            }
        }
    }

    fn submit(&mut self) -> Result<()> {
        if !self.slow.is_empty() {
            self.away += self.slow.len();
            let to = &self.reply;
            self.shared.jobs.give(self.slow.drain(..).map(|io| Job {
                io,
                to: Arc::clone(to),
            }));
        }
        self.uring.submit()
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        let state = &self.shared.state;
        self.uring.collect(|completion, tag| {
            if tag != REFUSED {
                state.left(tag);
            }
            done.push(completion);
        });
        self.collect_slow(done);
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.uring.as_fd()
    }

    fn wait(&mut self, wake: Option<BorrowedFd<'_>>) -> Result<bool> {
        self.submit()?;
        self.uring.wait(wake)
    }

    fn register(&mut self, memory: &(dyn SharedMemory + Send + Sync)) -> Option<BufferId> {
        (self.shared.options.caching != Caching::Buffered)
            .then(|| self.uring.register(memory))
            .flatten()
    }

    fn unregister(&mut self, buffer: BufferId) {
        self.uring.unregister(buffer);
    }
}

impl Drop for FormatQueue {
    /// Waits for what the threads have, and for what the kernel has: both own memory of the queue's.
    fn drop(&mut self) {
        let mut done = Vec::new();
        loop {
            self.completions(&mut done);
            if self.away == 0 && !self.uring.busy() {
                return;
            }
            if let Err(error) = self.uring.wait(None) {
                tracing::error!(%error, "an image does not finish");
                return;
            }
        }
    }
}
