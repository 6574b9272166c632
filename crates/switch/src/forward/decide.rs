//! Where one frame goes, by its first bytes.

use std::time::Duration;

use cantle_netport::headers::HEADERS_MAX;
use cantle_netport::port::FRAME_MAX;
use cantle_netport::{Checksum, Frame};

use super::rewrite::Retag;
use crate::header::{LINK_LEN, Link, Tci, is_tag};
use crate::table::{Cache, Key, Learned, Table};
use crate::topology::{Attached, Topology};
use crate::vlan::Egress;
use crate::{DropReason, VlanId};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nowhere, and that is counted.
    Dropped,
    /// To the port in that slot.
    To(usize),
    /// To everybody else in its VLAN.
    Flood {
        /// It is for one station, whom nobody knows.
        unknown: bool,
    },
}

/// What tag a frame came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Untagged,
    /// A tag with a priority only.
    Priority,
    Tagged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) vlan: VlanId,
    pub(crate) form: Form,
    tci: Tci,
    /// There are more tags behind the one that says its VLAN.
    hidden: bool,
}

impl Decision {
    pub(crate) const DROPPED: Self = Self {
        verdict: Verdict::Dropped,
        vlan: VlanId::DEFAULT,
        form: Form::Untagged,
        tci: Tci(0),
        hidden: false,
    };

    /// Whether it leaves as it came.
    pub(crate) fn unchanged(&self, egress: Egress) -> bool {
        matches!(
            (self.form, egress),
            (Form::Untagged, Egress::Untagged) | (Form::Tagged, Egress::Tagged)
        )
    }

    /// How it is to be changed; `None` where it may not leave so: a tag within would then pass for its own.
    pub(crate) fn retag(&self, egress: Egress) -> Option<Retag> {
        let tci = self.tci.with_vlan(self.vlan);
        match (self.form, egress) {
            (Form::Untagged, Egress::Untagged) | (Form::Tagged, Egress::Tagged) => {
                Some(Retag::Keep)
            }
            (Form::Priority | Form::Tagged, Egress::Untagged) => {
                (!self.hidden).then_some(Retag::Pop)
            }
            (Form::Untagged, Egress::Tagged) => Some(Retag::Push(tci)),
            (Form::Priority, Egress::Tagged) => Some(Retag::Replace(tci)),
        }
    }
}

/// One who sends, for the time of a batch.
pub(crate) struct Sender<'s> {
    pub(crate) topology: &'s Topology,
    pub(crate) from: &'s Attached,
    pub(crate) table: &'s Table,
    pub(crate) cache: &'s mut Cache,
    pub(crate) forward_link_local: bool,
    pub(crate) now: Duration,
}

impl Sender<'_> {
    /// Decides on one, learns its source, and counts it where it is dropped.
    pub(crate) fn decide(&mut self, frame: &Frame<'_>) -> Decision {
        let decision = self.admit(frame).and_then(|(link, mut decision)| {
            self.learn(decision.vlan, &link)?;
            decision.verdict = self.route(decision.vlan, &link)?;
            Ok(decision)
        });
        decision.unwrap_or_else(|reason| {
            self.from.port.counters.drop(reason, 1);
            Decision::DROPPED
        })
    }

    /// Whether the port may send it, and into which VLAN.
    fn admit(&self, frame: &Frame<'_>) -> Result<(Link, Decision), DropReason> {
        match self.from.options.filter {
            Some(_) => self.look(frame, &mut [0; HEADERS_MAX]),
            None => self.look(frame, &mut [0; LINK_LEN]),
        }
    }

    /// As [`admit`](Self::admit), by as much of the frame's first part as there is room for.
    fn look(&self, frame: &Frame<'_>, room: &mut [u8]) -> Result<(Link, Decision), DropReason> {
        let options = &*self.from.options;
        let first = frame.parts.first().ok_or(DropReason::Malformed)?;
        let copied = first.copy_to(room).min(frame.len);
        let bytes = room.get(..copied).unwrap_or_default();
        if !metadata_fits(frame) {
            return Err(DropReason::Malformed);
        }
        let link = Link::parse(bytes).ok_or(DropReason::Malformed)?;
        if !link.source.is_station() {
            return Err(DropReason::BadSource);
        }
        if link.destination.is_link_local() && !self.forward_link_local {
            return Err(DropReason::LinkLocal);
        }
        if options.mirror.is_some() {
            return Err(DropReason::NotForwarding);
        }
        let decision = self.classify(&link).ok_or(DropReason::Vlan)?;
        if let Some(filter) = &options.filter
            && !filter.admits(bytes, frame.len)
        {
            return Err(DropReason::Spoofed);
        }
        Ok((link, decision))
    }

    /// Which VLAN it is in, if it may be in one.
    fn classify(&self, link: &Link) -> Option<Decision> {
        let vlans = &self.from.options.vlans;
        let hidden = is_tag(link.kind);
        let tci = link.tag.unwrap_or_default();
        let (vlan, form) = match (link.tag, VlanId::new(tci.number())) {
            // A service tag, or a tag behind a priority: what would be left is not a frame without a tag.
            (None, _) if hidden => return None,
            (Some(_), None) if hidden || tci.number() != 0 => return None,
            (None, _) => (vlans.untagged()?, Form::Untagged),
            (Some(_), None) => (vlans.untagged()?, Form::Priority),
            (Some(_), Some(vlan)) if vlans.takes_tagged(vlan) => (vlan, Form::Tagged),
            (Some(_), Some(_)) => return None,
        };
        Some(Decision {
            verdict: Verdict::Dropped,
            vlan,
            form,
            tci,
            hidden,
        })
    }

    fn learn(&mut self, vlan: VlanId, link: &Link) -> Result<(), DropReason> {
        let (now, port) = (self.now.as_secs(), &*self.from.port);
        let key = Key::new(vlan, link.source);
        if let Some(entry) = self.cache.get(key, self.table) {
            let place = entry.place();
            if place == Some(port.id) {
                if self.from.options.learn {
                    entry.touch(now);
                }
                return Ok(());
            }
            if place.is_some() && entry.is_fixed() {
                return Err(DropReason::StaticElsewhere);
            }
        }
        if !self.from.options.learn {
            return Ok(());
        }
        match self.table.learn(key, &port.owner, self.from.epoch, now) {
            Learned::Here | Learned::Late => {}
            Learned::Moved => port.counters.moves.add(1),
            Learned::Flapping => port.counters.flaps.add(1),
            Learned::Full => port.counters.unlearned.add(1),
            Learned::Elsewhere => return Err(DropReason::StaticElsewhere),
        }
        Ok(())
    }

    fn route(&mut self, vlan: VlanId, link: &Link) -> Result<Verdict, DropReason> {
        let (options, port) = (&*self.from.options, &*self.from.port);
        let passes = |limit: Option<crate::Limit>, bucket: &crate::limit::Bucket, reason| {
            let over = limit.is_some_and(|limit| !bucket.take(limit, self.now));
            if over { Err(reason) } else { Ok(()) }
        };
        if link.destination.is_broadcast() {
            passes(
                options.limits.broadcast,
                &port.broadcast,
                DropReason::BroadcastLimit,
            )?;
            return Ok(Verdict::Flood { unknown: false });
        }
        if link.destination.is_multicast() {
            passes(
                options.limits.multicast,
                &port.multicast,
                DropReason::MulticastLimit,
            )?;
            return Ok(Verdict::Flood { unknown: false });
        }
        let now = self.now.as_secs();
        let entry = self.cache.get(Key::new(vlan, link.destination), self.table);
        let believed = entry.filter(|entry| !self.table.expired(entry, now));
        let place = believed.and_then(crate::table::Entry::place);
        let Some(to) = place.and_then(|id| self.topology.get(id)) else {
            passes(
                options.limits.unknown,
                &port.unknown,
                DropReason::UnknownLimit,
            )?;
            return Ok(Verdict::Flood { unknown: true });
        };
        if to.port.id == port.id {
            return Err(DropReason::SamePort);
        }
        if options.isolated && to.options.isolated {
            return Err(DropReason::Isolated);
        }
        if to.options.mirror.is_some() || to.options.vlans.egress(vlan).is_none() {
            to.port.counters.drop(DropReason::EgressVlan, 1);
            return Ok(Verdict::Dropped);
        }
        Ok(Verdict::To(to.port.id.slot()))
    }
}

/// Whether a frame's length, and what its metadata says of places in it, are possible.
fn metadata_fits(frame: &Frame<'_>) -> bool {
    let checksum = match frame.offload.checksum {
        Checksum::Present | Checksum::Validated => true,
        Checksum::Blank { start, offset } => {
            usize::from(start) + usize::from(offset) + 2 <= frame.len
        }
    };
    let gso = frame
        .offload
        .gso
        .is_none_or(|gso| gso.size != 0 && usize::from(gso.header_len) <= frame.len);
    frame.len <= FRAME_MAX && checksum && gso
}
