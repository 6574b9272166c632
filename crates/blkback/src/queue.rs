//! One connected ring: requests in, responses out.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::io::blkif::{BlkifRequest, BlkifResponse};
use cantle_abi::ring::{BackRing, RingBroken};
use cantle_abi::{DomId, GrantRef};
use cantle_evtchn::Channel;
use cantle_grant::Mapping;
use cantle_grant::{Access, GrantMapper};

use crate::image::{BlockImage, Completion, Io, IoOp, Pages};
use crate::request::{Command, Request, RequestError, status};
use crate::stats::{Stats, add};

/// Why a queue stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The front end broke the ring's rules. The queue takes nothing more from it and is to be disconnected.
    #[error("the front end broke the ring")]
    Ring(#[from] RingBroken),
    /// The image takes no requests any more.
    #[error("the image takes no requests")]
    Image(#[from] io::Error),
}

/// A request that the image has, at the index that is its token.
#[derive(Clone, Copy, Debug)]
struct Pending {
    id: u64,
    operation: u8,
    command: Command,
}

/// A connected ring with what it needs: its event channel, the way to the guest's pages, and the requests in flight.
///
/// It has no thread. [`pass`](Self::pass) does a bounded piece of work and never waits.
pub struct Queue {
    ring: BackRing<BlkifRequest, BlkifResponse, Mapping>,
    channel: Box<dyn Channel>,
    grants: Arc<dyn GrantMapper>,
    granter: DomId,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    /// Requests of the past, to be used again.
    spare: Vec<Io>,
    finished: Vec<Completion>,
    stats: Arc<Stats>,
}

impl Queue {
    /// Takes over a ring page that `granter` has initialised, and the channel for its notifications.
    ///
    /// # Errors
    ///
    /// [`RingBroken`] where the page's indices are impossible from the start.
    pub fn attach(
        page: Mapping,
        channel: Box<dyn Channel>,
        grants: Arc<dyn GrantMapper>,
        granter: DomId,
        stats: Arc<Stats>,
    ) -> Result<Self, RingBroken> {
        let ring = BackRing::attach(page)?;
        let slots = ring.slots() as usize;
        Ok(Self {
            ring,
            channel,
            grants,
            granter,
            pending: vec![None; slots],
            free: (0..slots).collect(),
            spare: Vec::with_capacity(slots),
            finished: Vec::with_capacity(slots),
            stats,
        })
    }

    /// Readable when the front end has notified.
    #[must_use]
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.channel.eventfd()
    }

    /// Consumes a notification; whether there was one.
    pub fn take_notification(&self) -> bool {
        self.channel.take()
    }

    /// How many requests the image has.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len() - self.free.len()
    }

    /// Takes the requests that wait, sets them to work in one submission, answers what is over, and notifies once at most.
    ///
    /// At most one ring of requests is taken. True where more wait already: call again. False: the front end will notify for the next
    /// request, and the image's descriptor tells of completions.
    ///
    /// # Errors
    ///
    /// [`QueueError`]; requests in flight are to be waited for with [`settle`](Self::settle) or [`drain`](Self::drain).
    pub fn pass(&mut self, image: &mut dyn BlockImage) -> Result<bool, QueueError> {
        // Completions first: they free slots, and are older.
        self.answer(image);
        let taken = self.take(image);
        if !matches!(taken, Ok(0)) {
            add(&self.stats.passes, 1);
        }
        image.submit()?;
        // Reads from the page cache are over as soon as they are submitted.
        self.answer(image);
        // What an answer set going again: the data of a flush, the rest of a short transfer. Most often nothing.
        image.submit()?;
        self.publish();
        taken?;
        Ok(self.ring.final_check_for_requests())
    }

    /// Answers what is over without taking new requests: for the time between the decision to disconnect and its end.
    ///
    /// # Errors
    ///
    /// [`QueueError::Image`].
    pub fn settle(&mut self, image: &mut dyn BlockImage) -> Result<(), QueueError> {
        self.answer(image);
        image.submit()?;
        self.publish();
        Ok(())
    }

    /// Waits until the image has nothing of this queue any more. **Blocks** for as long as the disk takes.
    ///
    /// # Errors
    ///
    /// [`QueueError::Image`]. The image then still owns the pages of what is in flight, and keeps them mapped.
    pub fn drain(&mut self, image: &mut dyn BlockImage) -> Result<(), QueueError> {
        self.settle(image)?;
        while self.in_flight() > 0 {
            image.wait(None)?;
            self.settle(image)?;
        }
        Ok(())
    }

    /// Takes up to one ring of requests; how many.
    fn take(&mut self, image: &mut dyn BlockImage) -> Result<u32, RingBroken> {
        let mut taken = 0;
        while taken < self.ring.slots() && !self.free.is_empty() {
            let Some(slot) = self.ring.next_request()? else {
                break;
            };
            taken += 1;
            if let Err(error) = self.start(&slot, image) {
                self.refuse(&slot, error);
            }
        }
        Ok(taken)
    }

    /// Checks a request, maps its pages and gives it to the image.
    fn start(
        &mut self,
        slot: &BlkifRequest,
        image: &mut dyn BlockImage,
    ) -> Result<(), RequestError> {
        let request = Request::parse(slot, &image.geometry())?;
        let mut io = self.spare.pop().unwrap_or_default();
        if let Err(error) = self.prepare(&request, &mut io) {
            // The pages that did map are let go, and the error is the answer: nothing that comes later can hide it (XSA-365).
            io.clear();
            self.spare.push(io);
            return Err(error);
        }
        let token = usize::try_from(io.token()).unwrap_or(usize::MAX);
        if let Some(place) = self.pending.get_mut(token) {
            *place = Some(Pending {
                id: request.id,
                operation: slot.operation,
                command: request.command,
            });
            image.queue(io);
        }
        Ok(())
    }

    fn prepare(&mut self, request: &Request, io: &mut Io) -> Result<(), RequestError> {
        let (op, access) = match request.command {
            // The disk's contents are written into the guest's pages.
            Command::Read => (IoOp::Read, Access::ReadWrite),
            Command::Write => (IoOp::Write, Access::ReadOnly),
            Command::Flush => (IoOp::Flush, Access::ReadOnly),
            Command::Discard { sectors } => (
                IoOp::Discard {
                    sectors,
                    secure: false,
                },
                Access::ReadOnly,
            ),
        };
        io.begin(0, op, request.sector);
        for part in request.parts() {
            let page = self.map(part.gref, access)?;
            io.push(Pages::Granted(page), part.offset.into(), part.len.into())?;
        }
        // `take` looked that a place is free.
        let token = self.free.pop().unwrap_or(usize::MAX);
        io.set_token(token as u64);
        Ok(())
    }

    fn map(&self, gref: GrantRef, access: Access) -> Result<Mapping, RequestError> {
        self.grants
            .map(self.granter, gref, access)
            .map_err(|source| RequestError::Grant { gref, source })
    }

    /// Answers every completion that waits.
    fn answer(&mut self, image: &mut dyn BlockImage) {
        let mut finished = std::mem::take(&mut self.finished);
        image.completions(&mut finished);
        for Completion { mut io, result } in finished.drain(..) {
            let token = usize::try_from(io.token()).unwrap_or(usize::MAX);
            let Some(place) = self.pending.get_mut(token) else {
                continue;
            };
            let Some(pending) = *place else { continue };
            if result.is_ok() && io.op() == IoOp::Flush && io.bytes() != 0 {
                // A flush with data: what was before is on the medium; now the data.
                io.set_op(IoOp::Write);
                image.queue(io);
                continue;
            }
            *place = None;
            self.free.push(token);
            self.count(&pending, &io, result.is_ok());
            io.clear();
            self.spare.push(io);
            let outcome = result.map_err(RequestError::Image);
            if let Err(error) = outcome {
                tracing::debug!(granter = %self.granter, operation = pending.operation, %error, "request failed");
            }
            self.respond(pending.id, pending.operation, status(outcome));
        }
        self.finished = finished;
    }

    fn count(&self, pending: &Pending, io: &Io, done: bool) {
        let stats = &*self.stats;
        if !done {
            return add(&stats.failed, 1);
        }
        match pending.command {
            Command::Read => {
                add(&stats.reads, 1);
                add(&stats.sectors_read, io.sectors());
            }
            Command::Write => {
                add(&stats.writes, 1);
                add(&stats.sectors_written, io.sectors());
            }
            Command::Flush => {
                add(&stats.flushes, 1);
                add(&stats.sectors_written, io.sectors());
            }
            Command::Discard { .. } => add(&stats.discards, 1),
        }
    }

    fn refuse(&mut self, slot: &BlkifRequest, error: RequestError) {
        add(&self.stats.refused, 1);
        tracing::debug!(granter = %self.granter, operation = slot.operation, %error, "request refused");
        self.respond(slot.id, slot.operation, status(Err(error)));
    }

    fn respond(&mut self, id: u64, operation: u8, status: i16) {
        // Every byte has a value, so nothing of this process's memory goes out with the padding (XSA-216).
        let response = BlkifResponse {
            id,
            operation,
            pad: 0,
            status,
            pad2: 0,
        };
        // It answers a request that was taken from this ring and not answered yet, so there is a slot for it.
        if let Err(error) = self.ring.push_response(&response) {
            tracing::error!(%error, "a response without a request");
        }
    }

    fn publish(&mut self) {
        if self.ring.publish_responses() {
            add(&self.stats.notifications, 1);
            if let Err(error) = self.channel.notify() {
                // The front end has closed its end; xenbus tells the rest.
                tracing::debug!(granter = %self.granter, %error, "cannot notify the front end");
            }
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("ring", &self.ring)
            .field("port", &self.channel.port())
            .field("granter", &self.granter)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
