//! The rx ring's consumer: the guest posts pages, the port's frames fill them.

use std::collections::VecDeque;
use std::fmt;

use cantle_abi::io::netif::{
    NETIF_RSP_ERROR, NETRXF_extra_info, NETRXF_more_data, NetifRxRequest, NetifRxResponse,
};
use cantle_abi::ring::{BackRing, RingBroken};
use cantle_abi::{DomId, PAGE_SIZE};
use cantle_grant::{CopyPiece, GrantMapper, Local, Mapping};

use super::frame::{self, FrontEnd};
use crate::recycle::recycle;
use crate::stats::Direction;
use crate::tx::Pass;
use cantle_netport::port::FRAME_MAX;
use cantle_netport::{NetPort, Received};
use cantle_netport::{Offload, PartMut};

/// Frames of one batch at most.
const FRAMES_MAX: usize = 64;
/// Room for frames: the whole memory that a guest which takes nothing can make us hold.
const ARENA_LEN: usize = 3 * ROOM;
/// Room that the port is offered for a frame: one byte more than the longest, so that a longer one shows.
const ROOM: usize = FRAME_MAX + 1;
/// Frames of one call at most.
const BUDGET: usize = 4 * FRAMES_MAX;

/// A frame in the arena.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: usize,
    len: usize,
    offload: Offload,
}

impl Entry {
    /// How many of the guest's pages it takes.
    fn slots(&self) -> usize {
        self.len.div_ceil(PAGE_SIZE) + usize::from(self.offload.gso.is_some())
    }
}

/// A response to be, and whether it stands for data (and not for extra info).
#[derive(Clone, Copy, Debug)]
struct Answer {
    response: NetifRxResponse,
    data: bool,
}

/// Takes frames from a port and gives them to a front end.
///
/// The port is read only while the guest has posted pages, so what waits, waits in the port. At most one frame is held back here: the
/// one that needs more pages than are posted.
pub(crate) struct RxQueue {
    ring: BackRing<NetifRxRequest, NetifRxResponse, Mapping>,
    front: FrontEnd,
    /// Pages the guest has posted, in ring order: never more than the ring is long.
    posted: VecDeque<NetifRxRequest>,
    entries: Vec<Entry>,
    arena: Box<[u8]>,
    used: usize,
    copies: Vec<CopyPiece<'static>>,
    answers: Vec<Answer>,
    /// The port has said that it has nothing.
    port_empty: bool,
}

impl fmt::Debug for RxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxQueue")
            .field("ring", &self.ring)
            .field("front", &self.front)
            .field("posted", &self.posted.len())
            .field("held", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl RxQueue {
    pub(crate) fn new(
        ring: BackRing<NetifRxRequest, NetifRxResponse, Mapping>,
        front: FrontEnd,
    ) -> Self {
        Self {
            ring,
            front,
            posted: VecDeque::new(),
            entries: Vec::with_capacity(FRAMES_MAX),
            arena: vec![0; ARENA_LEN].into_boxed_slice(),
            used: 0,
            copies: Vec::new(),
            answers: Vec::new(),
            port_empty: false,
        }
    }

    /// The port's descriptor has become readable.
    pub(crate) fn port_ready(&mut self) {
        self.port_empty = false;
    }

    /// Moves frames while the port has some and the guest has posted pages, some hundred at most.
    pub(crate) fn process(
        &mut self,
        mapper: &dyn GrantMapper,
        granter: DomId,
        port: &mut dyn NetPort,
        stats: &Direction,
    ) -> Result<Pass, RingBroken> {
        let mut budget = BUDGET;
        let mut notify = false;
        while budget > 0 {
            self.collect()?;
            budget = budget.saturating_sub(self.read(port, stats));
            if self.entries.is_empty() && self.port_empty {
                return Ok(Pass {
                    notify,
                    more: false,
                });
            }
            let given = self.give(mapper, granter, stats)?;
            notify |= self.ring.publish_responses();
            // Nothing could be given: go to sleep until the guest posts a page, unless it just did.
            if given == 0 && self.starved() && !self.ring.final_check_for_requests() {
                return Ok(Pass {
                    notify,
                    more: false,
                });
            }
        }
        Ok(Pass { notify, more: true })
    }

    /// Takes all posted pages off the ring.
    fn collect(&mut self) -> Result<(), RingBroken> {
        while let Some(request) = self.ring.next_request()? {
            self.posted.push_back(request);
        }
        Ok(())
    }

    /// Whether the next frame, or any frame, needs more pages than are posted.
    fn starved(&self) -> bool {
        let needed = self.entries.first().map_or(1, Entry::slots);
        self.posted.len() < needed
    }

    /// Reads frames while there are pages for them; returns how many were read, the lost ones included.
    fn read(&mut self, port: &mut dyn NetPort, stats: &Direction) -> usize {
        let mut needed: usize = self.entries.iter().map(Entry::slots).sum();
        let mut read = 0;
        while !self.port_empty && read < FRAMES_MAX && needed < self.posted.len() {
            let Some(room) = self
                .arena
                .get_mut(self.used..)
                .filter(|room| room.len() >= ROOM)
            else {
                break;
            };
            match port.receive(&mut [PartMut::from(&mut *room)]) {
                Ok(Received::Frame { len, offload }) => {
                    let bytes = room.get_mut(..len).unwrap_or_default();
                    match self.front.adapt(bytes, offload) {
                        Some(offload) => {
                            let at = self.used;
                            let entry = Entry { at, len, offload };
                            needed += entry.slots();
                            self.used += len;
                            self.entries.push(entry);
                        }
                        None => stats.count_dropped(),
                    }
                }
                Ok(Received::Lost) => stats.count_dropped(),
                Ok(Received::Nothing) => {
                    self.port_empty = true;
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, "the port failed");
                    stats.count_error();
                    self.port_empty = true;
                    break;
                }
            }
            read += 1;
        }
        read
    }

    /// Gives the frames for which there are pages to the guest; returns how many.
    fn give(
        &mut self,
        mapper: &dyn GrantMapper,
        granter: DomId,
        stats: &Direction,
    ) -> Result<usize, RingBroken> {
        let mut copies: Vec<CopyPiece<'_>> = recycle(std::mem::take(&mut self.copies));
        self.answers.clear();
        let (mut given, mut bytes) = (0, 0);
        for entry in &self.entries {
            if entry.slots() > self.posted.len() {
                break;
            }
            let frame = self.arena.get(entry.at..entry.at + entry.len);
            lay_out(
                entry,
                frame.unwrap_or_default(),
                granter,
                &mut self.posted,
                &mut copies,
                &mut self.answers,
            );
            given += 1;
            bytes += entry.len as u64;
        }
        mapper.copy(&mut copies);
        let mut statuses = copies.iter().map(|piece| piece.status);
        let mut failed = 0_u64;
        for answer in &mut self.answers {
            if answer.data && statuses.next().is_none_or(|status| status.is_err()) {
                answer.response.status = NETIF_RSP_ERROR;
                failed += 1;
            }
            self.ring.push_response(&answer.response)?;
        }
        drop(statuses);
        self.copies = recycle(copies);
        stats.count(given as u64, bytes);
        for _ in 0..failed {
            stats.count_error();
        }
        self.entries.drain(..given);
        self.compact();
        Ok(given)
    }

    /// Moves what is held back to the arena's start.
    fn compact(&mut self) {
        let mut to = 0;
        for entry in &mut self.entries {
            self.arena.copy_within(entry.at..entry.at + entry.len, to);
            entry.at = to;
            to += entry.len;
        }
        self.used = to;
    }
}

/// Spreads a frame over the guest's pages: a copy and a response for each, in ring order.
fn lay_out<'a>(
    entry: &Entry,
    frame: &'a [u8],
    granter: DomId,
    posted: &mut VecDeque<NetifRxRequest>,
    copies: &mut Vec<CopyPiece<'a>>,
    answers: &mut Vec<Answer>,
) {
    let mut flags = frame::flags(entry.offload.checksum);
    let mut extra = entry.offload.gso.as_ref().map(frame::extra);
    if extra.is_some() {
        flags |= NETRXF_extra_info;
    }
    let mut pieces = frame.chunks(PAGE_SIZE).peekable();
    while let Some(piece) = pieces.next() {
        let Some(request) = posted.pop_front() else {
            return;
        };
        if pieces.peek().is_some() {
            flags |= NETRXF_more_data;
        }
        copies.push(CopyPiece {
            granter,
            gref: request.gref,
            offset: 0,
            local: Local::From(piece),
            status: Ok(()),
        });
        answers.push(Answer {
            response: NetifRxResponse {
                id: request.id,
                offset: 0,
                flags,
                // A page's worth at most.
                status: i16::try_from(piece.len()).unwrap_or(NETIF_RSP_ERROR),
            },
            data: true,
        });
        flags = 0;
        // The extra info takes the place of the response after the first, whose page goes back unused.
        if let Some(extra) = extra.take() {
            posted.pop_front();
            answers.push(Answer {
                response: extra.to_rx_slot(),
                data: false,
            });
        }
    }
}
