//! A batch of packets on their way from the guest's pages to the port.

use std::sync::Arc;

use cantle_abi::GrantRef;
use cantle_abi::io::netif::{NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY};
use cantle_grant::{Access, CopyPiece, GrantStatus, Local, Mapping, Mappings};
use cantle_netport::{Checksum, Frame, Gso, GsoKind, NetPort, Offload, Part, recycle};

use super::{Fault, Packet, Slot};
use crate::control::StaticGrants;
use crate::headers::{self, HEADERS_MAX, IpVersion, Protocol};
use crate::shared::Shared;
use crate::{checksum, statics};

/// Packets of one batch at most.
pub(super) const PACKETS_MAX: usize = 64;
/// Bytes copied in one batch at most: what stays in a core's own cache.
const ARENA_LEN: usize = 192 * 1024;
/// From this length on, only a packet's headers are copied, and the rest stays in the guest's pages. Below it a map and an unmap
/// per page cost more than the copy.
const MAP_FROM: usize = 8 * 1024;

/// What is known of a packet of the batch.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Its range in `Batch::slots`.
    slots: (usize, usize),
    /// Its range in `Batch::pages`: one for each slot that is not empty; none where the packet is copied.
    mapped: (usize, usize),
    /// Where its copied bytes are in the arena, and how many: the whole packet, or its headers.
    at: usize,
    copied: usize,
    len: u16,
    csum_blank: bool,
    data_validated: bool,
    gso: Option<(GsoKind, u16)>,
    outcome: Result<Offload, Fault>,
    taken: bool,
}

/// A page of a packet that stays where it is.
#[derive(Debug)]
enum Page {
    /// Mapped for this batch, as so manieth.
    Mapped(usize),
    /// A static grant.
    Lent(Arc<Mapping>),
}

impl Page {
    /// What is left of a slot's data in the page after `skip` bytes.
    fn part<'a>(
        &'a self,
        mapped: &'a Mappings,
        slot: &Slot,
        skip: usize,
    ) -> Result<Part<'a>, GrantStatus> {
        let (at, len) = (usize::from(slot.offset), usize::from(slot.len));
        let skip = skip.min(len);
        let part = match self {
            Self::Mapped(index) => Part::shared(mapped.get(*index)?, at + skip, len - skip),
            Self::Lent(page) => Part::shared(&**page, at + skip, len - skip),
        };
        // Never: a mapping is a page, and the slot was checked to be within one.
        part.ok_or(GrantStatus::BAD_PAGE)
    }
}

/// Packets gathered, then copied, then sent: each step over all of them. All memory is kept from one batch to the next.
#[derive(Debug)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    slots: Vec<Slot>,
    arena: Box<[u8]>,
    used: usize,
    copies: Vec<CopyPiece<'static>>,
    pages: Vec<Page>,
    wanted: Vec<(GrantRef, Access)>,
    mappings: Mappings,
    parts: Vec<Part<'static>>,
    /// How many of `parts` each frame has.
    counts: Vec<usize>,
    frames: Vec<Frame<'static>>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The port took it.
    Sent {
        /// Its length in bytes.
        len: u16,
    },
    /// The port did not take it.
    Dropped,
    /// The guest made a mistake.
    Refused(Fault),
}

impl Outcome {
    /// The response's status.
    pub(super) fn status(self) -> i16 {
        match self {
            Self::Sent { .. } => NETIF_RSP_OKAY,
            Self::Dropped => NETIF_RSP_DROPPED,
            Self::Refused(_) => NETIF_RSP_ERROR,
        }
    }
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::with_capacity(PACKETS_MAX),
            slots: Vec::new(),
            arena: vec![0; ARENA_LEN].into_boxed_slice(),
            used: 0,
            copies: Vec::new(),
            pages: Vec::new(),
            wanted: Vec::new(),
            mappings: Mappings::default(),
            parts: Vec::new(),
            counts: Vec::new(),
            frames: Vec::with_capacity(PACKETS_MAX),
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.slots.clear();
        self.used = 0;
    }

    /// Whether there may be no room for another packet.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= PACKETS_MAX || self.arena.len() - self.used < MAP_FROM
    }

    /// Adds a packet. The caller has asked [`is_full`](Self::is_full).
    pub(super) fn push(&mut self, packet: &Packet<'_>) {
        let first = self.slots.len();
        self.slots.extend_from_slice(packet.slots);
        let len = usize::from(packet.len);
        let copied = if len < MAP_FROM { len } else { HEADERS_MAX };
        self.entries.push(Entry {
            slots: (first, self.slots.len()),
            mapped: (0, 0),
            at: self.used,
            copied,
            len: packet.len,
            csum_blank: packet.csum_blank,
            data_validated: packet.data_validated,
            gso: packet.gso,
            outcome: Ok(Offload::default()),
            taken: false,
        });
        self.used += copied;
    }

    /// The packets' outcomes, in order.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = Outcome> + '_ {
        self.entries.iter().map(|entry| match entry.outcome {
            Ok(_) if entry.taken => Outcome::Sent { len: entry.len },
            Ok(_) => Outcome::Dropped,
            Err(fault) => Outcome::Refused(fault),
        })
    }

    /// Takes the packets out of the guest's pages and gives them to the port.
    pub(super) fn send(&mut self, shared: &Shared, statics: &StaticGrants, port: &mut dyn NetPort) {
        self.copy(shared, statics);
        self.map(shared, statics);
        for entry in &mut self.entries {
            let copied = self.arena.get_mut(entry.at..entry.at + entry.copied);
            if entry.outcome.is_ok() {
                entry.outcome = entry.offload(copied.unwrap_or_default());
            }
        }
        self.give(port);
        self.pages.clear();
        self.mappings = Mappings::default();
    }

    /// Copies the packets that are copied whole: all in one call.
    fn copy(&mut self, shared: &Shared, statics: &StaticGrants) {
        let mut copies: Vec<CopyPiece<'_>> = recycle(std::mem::take(&mut self.copies));
        let mut rest = self.arena.get_mut(..self.used).unwrap_or_default();
        for entry in &self.entries {
            let (own, after) = rest.split_at_mut(entry.copied.min(rest.len()));
            rest = after;
            if !entry.is_copied() {
                continue;
            }
            let mut own = own;
            for slot in entry.filled(&self.slots) {
                let (into, after) = own.split_at_mut(usize::from(slot.len).min(own.len()));
                own = after;
                copies.push(CopyPiece {
                    granter: shared.granter,
                    gref: slot.gref,
                    offset: slot.offset,
                    local: Local::Into(into),
                    status: Ok(()),
                });
            }
        }
        statics::copy(statics, &*shared.grants, &mut copies);
        let mut statuses = copies.iter().map(|piece| piece.status);
        for entry in self.entries.iter_mut().filter(|entry| entry.is_copied()) {
            // Every piece's status is looked at: a later success does not make an earlier failure good.
            let pieces = entry.filled(&self.slots).count();
            let failed = statuses.by_ref().take(pieces).filter_map(Result::err);
            if let Some(status) = failed.last() {
                entry.outcome = Err(Fault::Grant(status));
            }
        }
        drop(statuses);
        self.copies = recycle(copies);
    }

    /// Maps the pages of the packets that stay where they are, all in one call, and copies their headers: those are looked at, and what
    /// has been looked at must not change.
    fn map(&mut self, shared: &Shared, statics: &StaticGrants) {
        let pages = (!statics.is_empty()).then(|| statics.lock());
        self.wanted.clear();
        for entry in self.entries.iter_mut().filter(|entry| !entry.is_copied()) {
            let first = self.pages.len();
            for slot in entry.filled(&self.slots) {
                let lent = pages.as_ref();
                let lent = lent.and_then(|pages| pages.get(slot.gref, Access::ReadOnly));
                self.pages
                    .push(lent.map_or(Page::Mapped(self.wanted.len()), Page::Lent));
                if let Some(Page::Mapped(_)) = self.pages.last() {
                    self.wanted.push((slot.gref, Access::ReadOnly));
                }
            }
            entry.mapped = (first, self.pages.len());
        }
        drop(pages);
        if self.pages.is_empty() {
            return;
        }
        if !self.wanted.is_empty() {
            self.mappings = shared.grants.map_all(shared.granter, &self.wanted);
        }
        for entry in self.entries.iter_mut().filter(|entry| !entry.is_copied()) {
            let headers = self.arena.get_mut(entry.at..entry.at + entry.copied);
            let mut headers = headers.unwrap_or_default();
            let pages = self.pages.get(entry.mapped.0..entry.mapped.1);
            for (slot, page) in entry.filled(&self.slots).zip(pages.unwrap_or_default()) {
                match page.part(&self.mappings, slot, 0) {
                    Ok(part) => {
                        let done = part.copy_to(headers);
                        headers = headers.get_mut(done..).unwrap_or_default();
                    }
                    Err(status) => {
                        entry.outcome = Err(Fault::Grant(status));
                        break;
                    }
                }
            }
        }
    }

    /// Hands the packets to the port in one call.
    fn give(&mut self, port: &mut dyn NetPort) {
        let mut parts: Vec<Part<'_>> = recycle(std::mem::take(&mut self.parts));
        self.counts.clear();
        for entry in self.entries.iter().filter(|entry| entry.outcome.is_ok()) {
            let before = parts.len();
            let copied = self.arena.get(entry.at..entry.at + entry.copied);
            parts.push(Part::from(copied.unwrap_or_default()));
            let pages = self.pages.get(entry.mapped.0..entry.mapped.1);
            let mut skip = entry.copied;
            for (slot, page) in entry.filled(&self.slots).zip(pages.unwrap_or_default()) {
                let skipped = skip.min(usize::from(slot.len));
                skip -= skipped;
                let part = page.part(&self.mappings, slot, skipped);
                parts.extend(part.ok().filter(|part| !part.is_empty()));
            }
            self.counts.push(parts.len() - before);
        }
        let mut frames: Vec<Frame<'_>> = recycle(std::mem::take(&mut self.frames));
        let mut rest = parts.as_slice();
        let good = self.entries.iter().filter(|entry| entry.outcome.is_ok());
        for (entry, &count) in good.zip(&self.counts) {
            let (own, after) = rest.split_at(count.min(rest.len()));
            rest = after;
            frames.push(Frame {
                parts: own,
                len: usize::from(entry.len),
                offload: entry.outcome.unwrap_or_default(),
                taken: false,
            });
        }
        port.send(&mut frames);
        let good = self
            .entries
            .iter_mut()
            .filter(|entry| entry.outcome.is_ok());
        for (entry, frame) in good.zip(&frames) {
            entry.taken = frame.taken;
        }
        self.frames = recycle(frames);
        self.parts = recycle(parts);
    }
}

impl Entry {
    /// Whether the packet is copied whole, and not mapped.
    fn is_copied(&self) -> bool {
        self.copied == usize::from(self.len)
    }

    /// The slots that hold data: of the others, nothing is asked of their pages.
    fn filled<'a>(&self, slots: &'a [Slot]) -> impl Iterator<Item = &'a Slot> + use<'a> {
        let own = slots.get(self.slots.0..self.slots.1).unwrap_or_default();
        own.iter().filter(|slot| slot.len != 0)
    }

    /// Turns the guest's flags into metadata, by the headers as copied.
    fn offload(&self, copied: &mut [u8]) -> Result<Offload, Fault> {
        if !self.csum_blank && self.gso.is_none() {
            let checksum = if self.data_validated {
                Checksum::Validated
            } else {
                Checksum::Present
            };
            return Ok(Offload {
                checksum,
                gso: None,
            });
        }
        let found = headers::transport(copied).map_err(|_| Fault::Headers)?;
        if !self.csum_blank {
            // A large packet's segments get their sums one by one, so it has to be blank even if the guest forgot to say so.
            if !checksum::begin(copied, &found, usize::from(self.len)) {
                return Err(Fault::Headers);
            }
        }
        let gso = match self.gso {
            None => None,
            Some((kind, size)) => {
                let version = match kind {
                    GsoKind::TcpV4 => IpVersion::V4,
                    GsoKind::TcpV6 => IpVersion::V6,
                };
                if found.version != version || found.protocol != Protocol::Tcp {
                    return Err(Fault::Headers);
                }
                Some(Gso {
                    kind,
                    size,
                    header_len: found.payload,
                    ecn: found.cwr,
                })
            }
        };
        Ok(Offload {
            checksum: Checksum::Blank {
                start: found.start,
                offset: found.checksum_offset(),
            },
            gso,
        })
    }
}
