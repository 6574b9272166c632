//! One connected ring: requests in, responses out.

mod pending;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::DomId;
use cantle_abi::io::blkif::{BlkifRequest, BlkifResponse};
use cantle_abi::ring::RingBroken;
use cantle_evtchn::Channel;
use cantle_grant::{Access, GrantMapper};

use crate::control::Shared;
use crate::image::{BlockImage, Completion, Io};
use crate::options::{BackendOptions, DiskKind};
use crate::pages::GuestPages;
use crate::request::{
    Command, Indirect, Offered, Request, RequestError, answered_operation, status,
};
use crate::ring::{Ends, Ring};
use crate::stats::{Stats, add};
use pending::Pending;

/// Why a queue stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// The front end broke the ring's rules. The queue takes nothing more from it and is to be disconnected.
    #[error("the front end broke the ring")]
    Ring(#[from] RingBroken),
    /// The image takes no requests any more.
    #[error("the image takes no requests")]
    Image(#[from] io::Error),
}

/// A connected ring with what it needs: its event channel, the way to the guest's pages, and the requests in flight.
///
/// It has no thread. [`pass`](Self::pass) does a bounded piece of work and never waits.
pub(crate) struct Queue {
    ring: Ring,
    channel: Box<dyn Channel>,
    pages: GuestPages,
    granter: DomId,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    /// A barrier that was taken and waits for what is in flight.
    barrier: Option<BlkifRequest>,
    /// A barrier is under way; what came after it waits for its end.
    in_barrier: bool,
    /// Requests that failed on a disk that stops then: they wait to be tried again.
    parked: Vec<Io>,
    /// Requests of the past, to be used again.
    spare: Vec<Io>,
    finished: Vec<Completion>,
    /// The request that is looked at.
    request: Request,
    offered: Offered,
    kind: DiskKind,
    shared: Arc<Shared>,
}

impl Queue {
    /// Takes over a ring that its granter has initialised, and the channel for its notifications.
    pub(crate) fn new(
        ends: Ends,
        grants: Arc<dyn GrantMapper>,
        persistent: bool,
        options: &BackendOptions,
        shared: Arc<Shared>,
    ) -> Self {
        let Ends {
            ring,
            channel,
            granter,
        } = ends;
        let slots = ring.slots() as usize;
        Self {
            ring,
            channel,
            pages: GuestPages::new(grants, granter, persistent, options),
            granter,
            pending: vec![None; slots],
            free: (0..slots).collect(),
            barrier: None,
            in_barrier: false,
            parked: Vec::new(),
            spare: Vec::with_capacity(slots),
            finished: Vec::with_capacity(slots),
            request: Request::default(),
            offered: Offered {
                barrier: options.barrier,
                discard: options.discard,
                indirect_segments: options.indirect_segments,
            },
            kind: options.kind,
            shared,
        }
    }

    /// Readable when the front end has notified.
    pub(crate) fn eventfd(&self) -> BorrowedFd<'_> {
        self.channel.eventfd()
    }

    /// Consumes a notification; whether there was one.
    pub(crate) fn take_notification(&self) -> bool {
        self.channel.take()
    }

    /// How many requests are not answered: those the image has, and those that wait to be tried again.
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len() - self.free.len()
    }

    /// How many requests the image has.
    pub(crate) fn with_image(&self) -> usize {
        self.in_flight() - self.parked.len()
    }

    fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Takes the requests that wait, sets them to work in one submission, answers what is over, and notifies once at most.
    ///
    /// At most one ring of requests is taken. True where something was done: more may wait. False: nothing does as far as is known, and the
    /// front end has **not** been asked to notify; that is [`arm`](Self::arm)'s.
    ///
    /// # Errors
    ///
    /// [`QueueError`]; requests in flight are to be waited for with [`settle`](Self::settle) or [`drain`](Self::drain).
    pub(crate) fn pass(&mut self, image: &mut dyn BlockImage) -> Result<bool, QueueError> {
        // Completions first: they free slots, and are older.
        let mut answered = self.answer(image);
        let taken = self.take(image);
        if !matches!(taken, Ok(0)) {
            add(&self.stats().passes, 1);
        }
        image.submit()?;
        // Reads from the page cache are over as soon as they are submitted.
        answered += self.answer(image);
        // What an answer set going again: the data of a flush, the rest of a short transfer. Most often nothing.
        image.submit()?;
        self.publish();
        Ok(taken? != 0 || answered != 0)
    }

    /// Asks the front end to notify at its next request; true where there already is one, or a request's turn has come otherwise.
    pub(crate) fn arm(&mut self) -> bool {
        if self.must_wait() {
            // A completion, or who resumes the disk, wakes us.
            return false;
        }
        self.ring.final_check_for_requests()
    }

    /// Whether no request may be taken although one may be there.
    fn must_wait(&self) -> bool {
        self.free.is_empty()
            || self.in_barrier
            || (self.barrier.is_some() && self.in_flight() != 0)
            || self.shared.is_stopped()
    }

    /// Answers what is over without taking new requests: for the time between the decision to disconnect and its end.
    ///
    /// # Errors
    ///
    /// [`QueueError::Image`].
    pub(crate) fn settle(&mut self, image: &mut dyn BlockImage) -> Result<(), QueueError> {
        self.answer(image);
        image.submit()?;
        self.publish();
        Ok(())
    }

    /// Waits until the image has nothing of this queue any more, and fails what waited to be tried again. **Blocks** for as long as
    /// the disk takes.
    ///
    /// # Errors
    ///
    /// [`QueueError::Image`]. The image then still owns the pages of what is in flight, and keeps them mapped.
    pub(crate) fn drain(&mut self, image: &mut dyn BlockImage) -> Result<(), QueueError> {
        self.settle(image)?;
        while self.with_image() > 0 {
            image.wait(None)?;
            self.settle(image)?;
        }
        for io in std::mem::take(&mut self.parked) {
            let error = crate::image::ImageError::Host(libc::EIO);
            self.conclude(io, Err(error));
        }
        self.publish();
        self.pages.unregister_all(image);
        Ok(())
    }

    /// Another image is to come in this one's place; nothing is in flight.
    pub(crate) fn leave_image(&mut self, image: &mut dyn BlockImage) {
        self.pages.unregister_all(image);
        for io in &mut self.parked {
            io.forget_buffers();
        }
    }

    /// Tries again what waited for it.
    pub(crate) fn retry(&mut self, image: &mut dyn BlockImage) {
        for io in std::mem::take(&mut self.parked) {
            image.queue(io);
        }
    }

    /// Takes up to one ring of requests; how many.
    fn take(&mut self, image: &mut dyn BlockImage) -> Result<u32, RingBroken> {
        let mut taken = 0;
        if let Some(slot) = self.barrier
            && !self.must_wait()
        {
            self.barrier = None;
            taken += 1;
            self.start(&slot, image);
        }
        while taken < self.ring.slots() && !self.must_wait() && self.barrier.is_none() {
            let Some(slot) = self.ring.next_request()? else {
                break;
            };
            taken += 1;
            if slot.operation == cantle_abi::io::blkif::BLKIF_OP_WRITE_BARRIER
                && self.in_flight() != 0
            {
                self.barrier = Some(slot);
            } else {
                self.start(&slot, image);
            }
        }
        Ok(taken)
    }

    /// Gives a request to the image, or answers it where it cannot be.
    fn start(&mut self, slot: &BlkifRequest, image: &mut dyn BlockImage) {
        let mut io = self.spare.pop().unwrap_or_default();
        match self.prepare(slot, image, &mut io) {
            Ok(()) => {
                let token = usize::try_from(io.token()).unwrap_or(usize::MAX);
                self.in_barrier = self.request.command == Command::Barrier;
                if let Some(place) = self.pending.get_mut(token) {
                    *place = Some(Pending::new(slot, self.request.command, io.bytes()));
                    image.queue(io);
                }
            }
            Err(error) => {
                // The pages that did map are let go, and the error is the answer: nothing that comes later can hide it (XSA-365).
                io.clear();
                self.spare.push(io);
                add(&self.stats().refused, 1);
                tracing::debug!(granter = %self.granter, operation = slot.operation, %error, "request refused");
                self.respond(slot.id, answered_operation(slot), status(Err(error)));
            }
        }
    }

    /// Checks a request and maps its pages.
    fn prepare(
        &mut self,
        slot: &BlkifRequest,
        image: &mut dyn BlockImage,
        io: &mut Io,
    ) -> Result<(), RequestError> {
        let disk = self.kind.limit(image.geometry());
        let indirect = match Indirect::parse(slot, &self.offered)? {
            Some(indirect) => Some(self.pages.segments(&indirect)?),
            None => None,
        };
        let request = &mut self.request;
        request.parse(slot, indirect, &disk, &self.offered)?;
        // The disk's contents are written into the guest's pages.
        let access = match request.command {
            Command::Read => Access::ReadWrite,
            _ => Access::ReadOnly,
        };
        io.begin(0, pending::first_op(request.command), request.sector);
        self.pages.map(request.parts(), access, image, io)?;
        // `take` looked that a place is free.
        let token = self.free.pop().unwrap_or(usize::MAX);
        io.set_token(token as u64);
        Ok(())
    }

    /// Answers every completion that waits; how many there were.
    fn answer(&mut self, image: &mut dyn BlockImage) -> usize {
        let mut finished = std::mem::take(&mut self.finished);
        image.completions(&mut finished);
        let count = finished.len();
        for Completion { mut io, result } in finished.drain(..) {
            let token = usize::try_from(io.token()).unwrap_or(usize::MAX);
            let Some(Some(pending)) = self.pending.get_mut(token) else {
                continue;
            };
            match result {
                Ok(()) => {
                    if let Some(op) = pending.next_op() {
                        // A flush with data: what was before is on the medium; now the data.
                        io.set_op(op);
                        image.queue(io);
                        continue;
                    }
                }
                Err(error) if self.shared.stops(&error) => {
                    self.parked.push(io);
                    continue;
                }
                Err(_) => {}
            }
            self.conclude(io, result);
        }
        self.finished = finished;
        if count != 0 {
            self.pages.sweep(image);
        }
        count
    }

    /// A request is over: counts and answers it, and lets go of its pages.
    fn conclude(&mut self, mut io: Io, result: Result<(), crate::image::ImageError>) {
        let token = usize::try_from(io.token()).unwrap_or(usize::MAX);
        let Some(pending) = self.pending.get_mut(token).and_then(Option::take) else {
            return;
        };
        self.free.push(token);
        // Nothing else is under way beside a barrier.
        self.in_barrier = false;
        pending.count(self.stats(), result.is_ok());
        io.clear();
        self.spare.push(io);
        let outcome = result.map_err(RequestError::Image);
        if let Err(error) = outcome {
            tracing::debug!(granter = %self.granter, operation = pending.operation, %error, "request failed");
        }
        self.respond(pending.id, pending.operation, status(outcome));
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
        if let Err(error) = self.ring.push_response(response) {
            tracing::error!(%error, "a response without a request");
        }
    }

    fn publish(&mut self) {
        if self.ring.publish_responses() {
            add(&self.stats().notifications, 1);
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
            .field("kept", &self.pages.kept())
            .finish_non_exhaustive()
    }
}
