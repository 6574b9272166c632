//! The rx ring's consumer: the guest posts pages, frames fill them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use cantle_abi::io::netif::{NETIF_RSP_ERROR, NetifRxRequest, NetifRxResponse};
use cantle_abi::ring::{BackRing, RingBroken};
use cantle_grant::{CopyPiece, Mapping};
use cantle_netport::headers::HEADERS_MAX;
use cantle_netport::port::FRAME_MAX;
use cantle_netport::segment::{Segments, Sums};
use cantle_netport::{Checksum, Frame, NetPort, Offload, Part, PartMut, Received, recycle};

use super::backlog::Backlog;
use super::direct::{Direct, Straight};
use super::fill::{Answer, Fill};
use super::frame::{FrameInfo, FrontEnd, Layout, Plan};
use super::starve::Starvation;
use crate::control::{HashReader, StaticGrants};
use crate::pass::Pass;
use crate::shared::Shared;
use crate::{checksum, statics};

/// Room that the port is offered for a frame: one byte more than the longest, so that a longer one shows.
const ROOM: usize = FRAME_MAX + 1;
/// Bytes that may wait at least: what a port gives at once.
const BACKLOG_MIN: usize = 3 * ROOM;
/// Frames that one call reads at most.
const BUDGET: usize = 256;
/// Frames that are read before they are given: what stays in a core's own cache.
const BATCH: usize = 64;
/// Large packets that are read straight into the guest's pages before it is told of them.
const STRAIGHT_MAX: usize = 8;

/// Takes frames from a port, or from whoever delivers some, and gives them to a front end.
///
/// A port is read only while the guest has posted pages, so what waits, waits in the port. What is delivered while there are none waits
/// here, in memory of a fixed size; more is lost.
pub(crate) struct RxQueue {
    pub(super) ring: BackRing<NetifRxRequest, NetifRxResponse, Mapping>,
    pub(super) front: FrontEnd,
    pub(super) shared: Arc<Shared>,
    pub(super) hash: HashReader,
    statics: Arc<StaticGrants>,
    /// Pages the guest has posted, in ring order: never more than the ring is long.
    pub(super) posted: VecDeque<NetifRxRequest>,
    pub(super) backlog: Backlog,
    copies: Vec<CopyPiece<'static>>,
    answers: Vec<Answer>,
    pub(super) direct: Direct,
    /// Frames being cut up, one at a time.
    whole: Vec<u8>,
    /// The port has said that it has nothing.
    pub(super) port_empty: bool,
    starvation: Starvation,
}

impl fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxQueue")
            .field("ring", &self.ring)
            .field("front", &self.front)
            .field("posted", &self.posted.len())
            .field("backlog", &self.backlog)
            .finish_non_exhaustive()
    }
}

impl RxQueue {
    pub(crate) fn new(
        ring: BackRing<NetifRxRequest, NetifRxResponse, Mapping>,
        front: FrontEnd,
        shared: Arc<Shared>,
        statics: Arc<StaticGrants>,
    ) -> Self {
        let size = shared.options.queue_bytes.max(BACKLOG_MIN);
        Self {
            ring,
            front,
            hash: shared.hash.reader(),
            shared,
            statics,
            posted: VecDeque::new(),
            backlog: Backlog::new(size),
            copies: Vec::new(),
            answers: Vec::new(),
            direct: Direct::default(),
            whole: Vec::new(),
            port_empty: false,
            starvation: Starvation::default(),
        }
    }

    /// The port's descriptor has become readable.
    pub(crate) fn port_ready(&mut self) {
        self.port_empty = false;
    }

    /// Moves frames while there are some and the guest has posted pages, some hundred at most. The port is read where that is said.
    pub(crate) fn process(
        &mut self,
        port: &mut dyn NetPort,
        read: bool,
        now: Instant,
    ) -> Result<Pass, RingBroken> {
        let pulled = read && port.fd().is_some();
        let mut pass = Pass::default();
        let mut budget = BUDGET;
        loop {
            self.collect()?;
            self.relink(port);
            if pulled {
                if self.straight(port, now, &mut pass)? {
                    // The guest is told of these before there are more.
                    pass.more = true;
                    return Ok(pass);
                }
                budget = budget.saturating_sub(self.read(port, now));
            }
            let nothing = self.backlog.is_empty() && (self.port_empty || !pulled);
            let given = self.give(now)?;
            pass.notify |= self.ring.publish_responses();
            self.fed(given, port);
            if nothing && self.starvation.needed().is_none() {
                return Ok(pass);
            }
            if given == 0 {
                if self.is_starved() {
                    // Nothing could be given: go to sleep until the guest posts a page, unless it just did.
                    if !self.ring.final_check_for_requests() {
                        pass.more = self.wait(port, pulled, now, &mut pass);
                        return Ok(pass);
                    }
                } else if let Err(when) = self.shared.rx_credit.ready(now) {
                    pass.wake_at(when);
                    return Ok(pass);
                }
            }
            if budget == 0 {
                pass.more = true;
                return Ok(pass);
            }
        }
    }

    /// Takes frames from whoever has some. Those that there are no pages for wait, up to the bound. Whether the guest is to be notified,
    /// and when there is to be another look.
    pub(crate) fn deliver(
        &mut self,
        frames: &mut [Frame<'_>],
        now: Instant,
    ) -> Result<Pass, RingBroken> {
        self.collect()?;
        let mut pass = Pass::default();
        let straight = if self.backlog.is_empty() {
            self.give_straight(frames, now)?
        } else {
            0
        };
        for frame in frames.iter_mut().skip(straight) {
            frame.taken = self.accept(frame, now);
            if !frame.taken {
                self.shared.stats.rx.count_dropped();
            }
        }
        loop {
            let given = self.give(now)?;
            if given > 0 {
                self.starvation.end();
            }
            if self.backlog.is_empty() {
                break;
            }
            if self.is_starved() {
                if !self.ring.final_check_for_requests() {
                    // The queue's thread sets its clock, once.
                    if self.starvation.needed().is_none() {
                        self.starvation.begin(now, self.needed());
                        pass.wake_at(now);
                    }
                    break;
                }
            } else if let Err(when) = self.shared.rx_credit.ready(now) {
                pass.wake_at(when);
                break;
            }
            self.collect()?;
        }
        if self.starvation.is_over() {
            // The queue's thread tells the port.
            pass.wake_at(now);
        }
        pass.notify = self.ring.publish_responses();
        Ok(pass)
    }

    /// Takes all posted pages off the ring.
    fn collect(&mut self) -> Result<(), RingBroken> {
        while let Some(request) = self.ring.next_request()? {
            self.posted.push_back(request);
        }
        self.starvation.posted(self.posted.len());
        Ok(())
    }

    /// Reads large packets straight into the guest's pages; true where there may be more of them.
    fn straight(
        &mut self,
        port: &mut dyn NetPort,
        now: Instant,
        pass: &mut Pass,
    ) -> Result<bool, RingBroken> {
        for _ in 0..STRAIGHT_MAX {
            match self.read_straight(port, now)? {
                Straight::Given => {
                    pass.notify |= self.ring.publish_responses();
                    self.fed(1, port);
                    self.collect()?;
                }
                Straight::Read => return Ok(false),
                Straight::No => return Ok(false),
            }
        }
        Ok(true)
    }

    pub(super) fn layout(&self) -> Layout {
        Layout {
            headroom: self.shared.headroom(),
        }
    }

    /// Whether the next frame, or any frame, needs more pages than are posted.
    fn is_starved(&self) -> bool {
        self.posted.len() < self.needed()
    }

    /// Pages that the next frame needs: one that waits, or one like that for which there were none.
    fn needed(&self) -> usize {
        match self.backlog.first() {
            Some(info) => self.layout().slots(info),
            None => self.starvation.needed().unwrap_or(1),
        }
    }

    /// Reads frames while there are pages for them; returns how many were read, the lost ones included.
    fn read(&mut self, port: &mut dyn NetPort, now: Instant) -> usize {
        let layout = self.layout();
        let frames = self.backlog.frames();
        let mut needed: usize = frames.map(|(info, _)| layout.slots(info)).sum();
        let mut read = 0;
        if !self.backlog.is_empty() && self.shared.rx_credit.ready(now).is_err() {
            return 0;
        }
        while !self.port_empty && read < BATCH && needed < self.posted.len() {
            let Some(room) = self.backlog.room(ROOM) else {
                break;
            };
            match port.receive(&mut [PartMut::from(room)]) {
                Ok(Received::Frame { len, offload }) => {
                    let info = FrameInfo {
                        len,
                        offload,
                        hash: None,
                    };
                    self.direct.seen(&info);
                    needed += self.keep_read(ROOM, info);
                }
                Ok(Received::Lost) => self.shared.stats.rx.count_dropped(),
                Ok(Received::Nothing) => {
                    self.port_empty = true;
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, "the port failed");
                    self.shared.stats.rx.count_error();
                    self.port_empty = true;
                    break;
                }
            }
            read += 1;
        }
        read
    }

    /// Keeps the frame that was read into the backlog's room for `asked` bytes, made fit for the front end; how many slots it takes.
    pub(super) fn keep_read(&mut self, asked: usize, mut info: FrameInfo) -> usize {
        let layout = self.layout();
        let mut headers = [0; HEADERS_MAX];
        let seen = match self.backlog.room(asked) {
            Some(room) => {
                let frame = room.get(..info.len).unwrap_or_default();
                Part::from(frame).copy_to(&mut headers)
            }
            None => 0,
        };
        let headers = headers.get(..seen).unwrap_or_default();
        let passes = self.shared.lets_in(headers);
        if passes {
            info.hash = self.hash.get().hash(headers);
        }
        match self.front.plan(headers, layout, &info) {
            Plan::Pass if passes => self.backlog.push(asked, info),
            Plan::Complete { start, offset } if passes => {
                self.backlog.push(asked, info);
                if !self.complete_last(start, offset) {
                    self.shared.stats.rx.count_dropped();
                    return 0;
                }
            }
            Plan::Segment if passes => {
                let room = self.backlog.room(asked);
                self.whole.clear();
                let frame = room.and_then(|room| room.get(..info.len));
                self.whole.extend_from_slice(frame.unwrap_or_default());
                let (slots, lost) = self.segment(info.offload);
                if lost {
                    self.shared.stats.rx.count_dropped();
                }
                return slots;
            }
            _ => {
                self.shared.stats.rx.count_dropped();
                return 0;
            }
        }
        layout.slots(&info)
    }

    /// Completes the newest frame's checksum; drops it where that cannot be done.
    fn complete_last(&mut self, start: u16, offset: u16) -> bool {
        let completed = match self.backlog.last_mut() {
            Some((bytes, offload)) => {
                offload.checksum = Checksum::Present;
                checksum::complete(bytes, start, offset)
            }
            None => false,
        };
        if !completed {
            self.backlog.pop_last();
        }
        completed
    }

    /// Cuts up the frame in `whole`; how many slots the segments take, and whether some are lost: those that there is no room for.
    fn segment(&mut self, offload: Offload) -> (usize, bool) {
        let layout = self.layout();
        let whole = std::mem::take(&mut self.whole);
        let (mut slots, mut lost) = (0, false);
        match Segments::new(&whole, &offload, Sums::Complete) {
            Ok(mut segments) => {
                let most = segments.max_len();
                loop {
                    let Some(room) = self.backlog.room(most) else {
                        // Whoever sent it finds out by what does not arrive.
                        lost = true;
                        break;
                    };
                    let Some(len) = segments.next_into(room) else {
                        break;
                    };
                    let headers = room.get(..len.min(HEADERS_MAX)).unwrap_or_default();
                    let hash = self.hash.get().hash(headers);
                    let offload = Offload::default();
                    let info = FrameInfo { len, offload, hash };
                    if self.front.plan(&[], layout, &info) != Plan::Pass {
                        lost = true;
                        break;
                    }
                    slots += layout.slots(&info);
                    self.backlog.push(most, info);
                }
            }
            Err(_) => lost = true,
        }
        self.whole = whole;
        (slots, lost)
    }

    /// Gives delivered frames to the guest without keeping them, as long as they need no change and there are pages; returns how many were
    /// seen to, those that are lost included.
    fn give_straight(
        &mut self,
        frames: &mut [Frame<'_>],
        now: Instant,
    ) -> Result<usize, RingBroken> {
        let layout = self.layout();
        self.direct.forget();
        let mut copies: Vec<CopyPiece<'_>> = recycle(std::mem::take(&mut self.copies));
        self.answers.clear();
        let (mut seen, mut given, mut bytes) = (0, 0, 0);
        for frame in frames {
            let mut headers = [0; HEADERS_MAX];
            let headers = first_bytes(frame.parts, &mut headers);
            if !self.shared.lets_in(headers) {
                self.shared.stats.rx.count_dropped();
                seen += 1;
                continue;
            }
            let info = FrameInfo {
                len: frame.len,
                offload: frame.offload,
                hash: self.hash.get().hash(headers),
            };
            if self.front.plan(headers, layout, &info) != Plan::Pass
                || layout.slots(&info) > self.posted.len()
                || self.shared.rx_credit.take(now, info.len).is_err()
            {
                break;
            }
            let mut fill = Fill {
                granter: self.shared.granter,
                front: self.front,
                layout,
                posted: &mut self.posted,
                copies: &mut copies,
                answers: &mut self.answers,
            };
            fill.frame(&info, frame.parts.iter().copied());
            frame.taken = true;
            seen += 1;
            given += 1;
            bytes += info.len as u64;
        }
        statics::copy(&self.statics, &*self.shared.grants, &mut copies);
        respond(&mut self.ring, &self.answers, &copies, &self.shared)?;
        self.copies = recycle(copies);
        self.shared.stats.rx.count(given, bytes);
        if given > 0 {
            self.starvation.end();
        }
        Ok(seen)
    }

    /// Keeps a delivered frame, made fit for the front end; false where it is lost.
    fn accept(&mut self, frame: &Frame<'_>, now: Instant) -> bool {
        let patience = self.shared.options.drain_after;
        if self.starvation.has_lasted(now, patience) {
            return false;
        }
        let mut headers = [0; HEADERS_MAX];
        let headers = first_bytes(frame.parts, &mut headers);
        if !self.shared.lets_in(headers) {
            return false;
        }
        let info = FrameInfo {
            len: frame.len,
            offload: frame.offload,
            hash: self.hash.get().hash(headers),
        };
        match self.front.plan(headers, self.layout(), &info) {
            Plan::Pass => self.backlog.push_parts(frame.parts, info),
            Plan::Complete { start, offset } => {
                self.backlog.push_parts(frame.parts, info) && self.complete_last(start, offset)
            }
            Plan::Segment if frame.len <= FRAME_MAX => {
                self.whole.resize(frame.len, 0);
                let mut room = self.whole.as_mut_slice();
                for part in frame.parts {
                    let copied = part.copy_to(room);
                    room = room.get_mut(copied..).unwrap_or_default();
                }
                if !room.is_empty() {
                    return false;
                }
                let (slots, lost) = self.segment(frame.offload);
                if lost && slots > 0 {
                    self.shared.stats.rx.count_dropped();
                }
                slots > 0
            }
            Plan::Segment | Plan::Drop => false,
        }
    }

    /// Gives the waiting frames for which there are pages, and credit, to the guest; returns how many.
    fn give(&mut self, now: Instant) -> Result<usize, RingBroken> {
        if self.backlog.is_empty() {
            return Ok(0);
        }
        let layout = self.layout();
        self.direct.forget();
        let mut copies: Vec<CopyPiece<'_>> = recycle(std::mem::take(&mut self.copies));
        self.answers.clear();
        let (mut given, mut bytes) = (0, 0);
        for (info, part) in self.backlog.frames() {
            if layout.slots(info) > self.posted.len()
                || self.shared.rx_credit.take(now, info.len).is_err()
            {
                break;
            }
            let mut fill = Fill {
                granter: self.shared.granter,
                front: self.front,
                layout,
                posted: &mut self.posted,
                copies: &mut copies,
                answers: &mut self.answers,
            };
            fill.frame(info, std::iter::once(part));
            given += 1;
            bytes += info.len as u64;
        }
        statics::copy(&self.statics, &*self.shared.grants, &mut copies);
        respond(&mut self.ring, &self.answers, &copies, &self.shared)?;
        self.copies = recycle(copies);
        self.shared.stats.rx.count(given as u64, bytes);
        self.backlog.pop(given);
        Ok(given)
    }

    /// Something could be given, or not.
    fn fed(&mut self, given: usize, port: &mut dyn NetPort) {
        if given > 0 {
            self.starvation.end();
            self.relink(port);
        }
    }

    /// A guest that has pages again is there again, whether there are frames for it or not: where nobody is there, none might come.
    fn relink(&mut self, port: &mut dyn NetPort) {
        if self.starvation.recover() {
            port.set_link(self.shared.link());
        }
    }

    /// Frames wait and there are no pages for them. When that has lasted, they are dropped: they are too old to be of use to anybody, and
    /// those that come are new. When it lasts on, the port is told that nobody is there. True: there is more to drop.
    fn wait(
        &mut self,
        port: &mut dyn NetPort,
        pulled: bool,
        now: Instant,
        pass: &mut Pass,
    ) -> bool {
        let options = &self.shared.options;
        let since = self.starvation.begin(now, self.needed());
        // Times that no clock can say do not come.
        let drain_at = since.checked_add(options.drain_after);
        let stall_at = since.checked_add(options.stall_after.max(options.drain_after));
        if drain_at.is_none_or(|at| now < at) {
            pass.wake = pass.wake.into_iter().chain(drain_at).min();
            return false;
        }
        let lost = self.backlog.len();
        self.backlog.pop(lost);
        (0..lost).for_each(|_| self.shared.stats.rx.count_dropped());
        if stall_at.is_none_or(|at| now < at) {
            pass.wake = pass.wake.into_iter().chain(stall_at).min();
        } else if self.starvation.stall() {
            tracing::warn!(granter = %self.shared.granter, "the guest takes no packets: the link is down");
            self.shared.stats.count_stall();
            port.set_link(false);
        }
        pulled && self.discard(port)
    }

    /// Reads frames and forgets them; true where there may be more.
    fn discard(&mut self, port: &mut dyn NetPort) -> bool {
        for _ in 0..BUDGET {
            let Some(room) = self.backlog.room(ROOM).filter(|_| !self.port_empty) else {
                return false;
            };
            match port.receive(&mut [PartMut::from(room)]) {
                Ok(Received::Frame { .. } | Received::Lost) => self.shared.stats.rx.count_dropped(),
                Ok(Received::Nothing) | Err(_) => self.port_empty = true,
            }
        }
        true
    }
}

/// A frame's first bytes, as far as `into` has room: a private copy.
pub(crate) fn first_bytes<'i>(parts: &[Part<'_>], into: &'i mut [u8]) -> &'i [u8] {
    let mut filled = 0;
    for part in parts {
        let room = into.get_mut(filled..).unwrap_or_default();
        if room.is_empty() {
            break;
        }
        filled += part.copy_to(room);
    }
    into.get(..filled).unwrap_or_default()
}

/// Puts the responses on the ring: an error where any of a page's copies failed.
fn respond(
    ring: &mut BackRing<NetifRxRequest, NetifRxResponse, Mapping>,
    answers: &[Answer],
    copies: &[CopyPiece<'_>],
    shared: &Shared,
) -> Result<(), RingBroken> {
    let mut statuses = copies.iter().map(|piece| piece.status);
    for answer in answers {
        let mut response = answer.response;
        // Each one is looked at: a later success does not make an earlier failure good.
        let pieces = statuses.by_ref().take(answer.copies.into());
        if pieces.filter(Result::is_err).count() > 0 {
            response.status = NETIF_RSP_ERROR;
            shared.stats.rx.count_error();
        }
        ring.push_response(&response)?;
    }
    Ok(())
}
