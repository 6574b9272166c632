//! The rx ring's consumer: the guest posts pages, frames fill them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use cantle_abi::io::netif::{NetifRxRequest, NetifRxResponse};
use cantle_abi::ring::{BackRing, RingBroken};
use cantle_grant::{CopyPiece, Mapping};
use cantle_netport::port::FRAME_MAX;
use cantle_netport::{NetPort, PartMut, Received};

use super::backlog::Backlog;
use super::fill::Answer;
use super::frame::{FrameInfo, FrontEnd, Layout};
use super::starve::Starvation;
use crate::control::{HashReader, StaticGrants};
use crate::pass::Pass;
use crate::shared::Shared;

/// Room that the port is offered for a frame: one byte more than the longest, so that a longer one shows.
pub(super) const ROOM: usize = FRAME_MAX + 1;
/// Bytes that may wait at least: what a port gives at once.
const BACKLOG_MIN: usize = 3 * ROOM;
/// Frames that one call reads at most.
const BUDGET: usize = 256;
/// Frames that are read before they are given: what stays in a core's own cache.
const BATCH: usize = 64;

/// Takes frames from a port, or from whoever delivers some, and gives them to a front end.
///
/// A port is read only while the guest has posted pages, so what waits, waits in the port. What is delivered while there are none waits
/// here, in memory of a fixed size; more is lost.
pub(crate) struct RxQueue {
    pub(super) ring: BackRing<NetifRxRequest, NetifRxResponse, Mapping>,
    pub(super) front: FrontEnd,
    pub(super) shared: Arc<Shared>,
    pub(super) hash: HashReader,
    pub(super) statics: Arc<StaticGrants>,
    /// Pages the guest has posted, in ring order: never more than the ring is long.
    pub(super) posted: VecDeque<NetifRxRequest>,
    pub(super) backlog: Backlog,
    pub(super) copies: Vec<CopyPiece<'static>>,
    pub(super) answers: Vec<Answer>,
    /// Frames being cut up, one at a time.
    pub(super) whole: Vec<u8>,
    /// The port has said that it has nothing.
    pub(super) port_empty: bool,
    pub(super) starvation: Starvation,
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

    /// Takes all posted pages off the ring.
    pub(super) fn collect(&mut self) -> Result<(), RingBroken> {
        while let Some(request) = self.ring.next_request()? {
            self.posted.push_back(request);
        }
        self.starvation.posted(self.posted.len());
        Ok(())
    }

    pub(super) fn layout(&self) -> Layout {
        Layout {
            headroom: self.shared.headroom(),
        }
    }

    /// Whether the next frame, or any frame, needs more pages than are posted.
    pub(super) fn is_starved(&self) -> bool {
        self.posted.len() < self.needed()
    }

    /// Pages that the next frame needs: one that waits, or one like that for which there were none.
    pub(super) fn needed(&self) -> usize {
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
                    needed += self.keep_read(info);
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
            self.shared.queue_recovers(port);
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
            self.shared.queue_stalls(port);
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
