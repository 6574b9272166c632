//! Putting packets together out of ring slots: the format rules of `io/netif.h`, and nothing else.

use cantle_abi::io::netif::{
    NETTXF_csum_blank, NETTXF_data_validated, NETTXF_extra_info, NETTXF_more_data, NetifExtraInfo,
    NetifTxRequest, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_EXTRA_TYPE_HASH,
    XEN_NETIF_EXTRA_TYPE_MAX, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6, XEN_NETIF_NR_SLOTS_MIN,
};
use cantle_abi::{GrantRef, PAGE_SIZE};
use cantle_grant::GrantStatus;

use cantle_netport::GsoKind;

/// Bytes of the smallest frame: an Ethernet header.
pub(crate) const FRAME_MIN: u16 = 14;
/// Extra-info slots that a packet may have: one of each kind.
const EXTRAS_MAX: usize = XEN_NETIF_EXTRA_TYPE_MAX as usize - 1;
/// Slots of a whole packet.
const PACKET_SLOTS_MAX: usize = XEN_NETIF_NR_SLOTS_MIN + EXTRAS_MAX;

/// What is wrong with a packet that a guest sent. The packet is refused; the ring goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Shorter than an Ethernet header.
    #[error("a packet of {0} bytes")]
    TooShort(u16),
    /// More slots than the protocol allows.
    #[error("more than {XEN_NETIF_NR_SLOTS_MIN} slots")]
    TooManySlots,
    /// The parts are more than the whole.
    #[error("parts of {parts} bytes in a packet of {total}")]
    Size {
        /// What the first slot says of the whole packet, in bytes.
        total: u16,
        /// What the other slots add up to, in bytes.
        parts: u32,
    },
    /// A part leaves its page.
    #[error("a part of {len} bytes at offset {offset} leaves its page")]
    CrossesPage {
        /// Where the part starts in its page, in bytes.
        offset: u16,
        /// Its length in bytes.
        len: u16,
    },
    /// An extra-info slot of a kind that was not negotiated, or one too many.
    #[error("extra info of kind {0}")]
    Extra(u8),
    /// Segmentation by a protocol that there is not, or into segments of nothing.
    #[error("segmentation of type {kind} into {size} bytes")]
    Segmentation {
        /// The type as given.
        kind: u8,
        /// The segment size as given, in bytes.
        size: u16,
    },
    /// The headers do not bear out what the flags say.
    #[error("a blank checksum or a segmentation without the headers for it")]
    Headers,
    /// A page could not be had.
    #[error("cannot reach a page")]
    Grant(#[source] GrantStatus),
}

/// One part of a packet: within its page, by the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The page.
    pub gref: GrantRef,
    /// Where in the page, in bytes.
    pub offset: u16,
    /// How many bytes; may be none.
    pub len: u16,
}

/// A packet that keeps the rules of the ring's format. Nothing of its contents has been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its parts, in order: together they are `len` bytes.
    pub slots: &'a [Slot],
    /// Its length in bytes: at least an Ethernet header, at most 65535.
    pub len: u16,
    /// Its checksum is not filled in.
    pub csum_blank: bool,
    /// The guest vouches for its checksum.
    pub data_validated: bool,
    /// How to cut it up, and into segments of how many bytes (never 0).
    pub gso: Option<(GsoKind, u16)>,
    /// It is no packet to be sent: it says that a multicast group is joined or left.
    pub multicast: Option<NetifExtraInfo>,
}

/// Which extra info a front end may send beside segmentation, since it was offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// `XEN_NETIF_EXTRA_TYPE_MCAST_ADD` and `_DEL`.
    pub multicast: bool,
    /// `XEN_NETIF_EXTRA_TYPE_HASH`. What it says is of no use here: a receiver's queue is chosen by what the packet is.
    pub hash: bool,
}

/// What a ring slot led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The packet goes on in the next slot.
    More,
    /// A packet is whole: [`Assembler::packet`] has it, [`Assembler::answers`] what to answer.
    Whole,
    /// The packet is refused, and what [`Assembler::answers`] holds is to be answered now. Where it has more slots, each
    /// leads to `Refused` again.
    Refused(Fault),
}

/// A slot that wants a response: its request's id, or none for an extra-info slot.
pub type Answer = Option<u16>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    First,
    Extra,
    Next,
}

/// The state machine that a tx ring's slots are fed to, one by one.
///
/// It holds one packet at most, of bounded size; a packet may be spread over any number of calls. Each slot fed to it comes up
/// in exactly one set of answers.
#[derive(Debug)]
pub struct Assembler {
    expect: Expect,
    fault: Option<Fault>,
    /// The first slot has said that there are more after it and its extras.
    more: bool,
    flags: u16,
    total: u16,
    gso: Option<(GsoKind, u16)>,
    multicast: Option<NetifExtraInfo>,
    /// The kinds of extra info seen: one of each.
    seen: u8,
    accepted: Extras,
    slots: Vec<Slot>,
    answers: Vec<Answer>,
    /// The answers belong to what has been handed out: cleared before the next slot.
    done: bool,
}

impl Default for Assembler {
    fn default() -> Self {
        Self::new()
    }
}

impl Assembler {
    /// One that waits for a packet's first slot, and knows segmentation only.
    #[must_use]
    pub fn new() -> Self {
        Self::accepting(Extras::default())
    }

    /// One that waits for a packet's first slot.
    #[must_use]
    pub fn accepting(accepted: Extras) -> Self {
        Self {
            accepted,
            multicast: None,
            seen: 0,
            expect: Expect::First,
            fault: None,
            more: false,
            flags: 0,
            total: 0,
            gso: None,
            slots: Vec::with_capacity(XEN_NETIF_NR_SLOTS_MIN),
            answers: Vec::with_capacity(PACKET_SLOTS_MAX),
            done: false,
        }
    }

    /// Takes the next slot of the ring.
    pub fn feed(&mut self, slot: &NetifTxRequest) -> Step {
        if std::mem::take(&mut self.done) {
            self.answers.clear();
        }
        match self.expect {
            Expect::First => self.first(slot),
            Expect::Extra => self.extra(&NetifExtraInfo::from_tx_slot(slot)),
            Expect::Next => self.next(slot),
        }
        if let Some(fault) = self.fault {
            // Answered at once, so that a chain without end occupies no more than a slot.
            self.done = true;
            return Step::Refused(fault);
        }
        if self.expect != Expect::First {
            return Step::More;
        }
        self.done = true;
        match self.check_sizes() {
            Ok(()) => Step::Whole,
            Err(fault) => Step::Refused(fault),
        }
    }

    /// What the last [`Step::Whole`] or [`Step::Refused`] is to be answered with, slot by slot in the ring's order.
    #[must_use]
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// The packet of the last [`Step::Whole`].
    #[must_use]
    pub fn packet(&self) -> Packet<'_> {
        Packet {
            slots: &self.slots,
            len: self.total,
            csum_blank: self.flags & NETTXF_csum_blank != 0,
            data_validated: self.flags & NETTXF_data_validated != 0,
            gso: self.gso,
            multicast: self.multicast,
        }
    }

    /// Whether the next slot begins a packet.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.expect == Expect::First
    }

    fn first(&mut self, slot: &NetifTxRequest) {
        self.fault = None;
        self.gso = None;
        self.multicast = None;
        self.seen = 0;
        self.slots.clear();
        self.flags = slot.flags;
        self.total = slot.size;
        self.more = slot.flags & NETTXF_more_data != 0;
        self.part(slot);
        self.expect = if slot.flags & NETTXF_extra_info != 0 {
            Expect::Extra
        } else {
            self.after_extras()
        };
    }

    fn extra(&mut self, extra: &NetifExtraInfo) {
        self.answers.push(None);
        if extra.flags & XEN_NETIF_EXTRA_FLAG_MORE == 0 {
            self.expect = self.after_extras();
        }
        let known = match extra.kind {
            XEN_NETIF_EXTRA_TYPE_GSO => true,
            XEN_NETIF_EXTRA_TYPE_MCAST_ADD | XEN_NETIF_EXTRA_TYPE_MCAST_DEL => {
                self.accepted.multicast
            }
            XEN_NETIF_EXTRA_TYPE_HASH => self.accepted.hash,
            _ => false,
        };
        let bit = 1_u8.checked_shl(extra.kind.into()).unwrap_or(0);
        if !known || self.seen & bit != 0 {
            self.refuse(Fault::Extra(extra.kind));
            return;
        }
        self.seen |= bit;
        match extra.kind {
            XEN_NETIF_EXTRA_TYPE_GSO => self.segmentation(extra),
            XEN_NETIF_EXTRA_TYPE_HASH => {}
            // Joining one group and leaving another at once is not a thing that the header knows.
            _ if self.multicast.is_some() => self.refuse(Fault::Extra(extra.kind)),
            _ => self.multicast = Some(*extra),
        }
    }

    fn segmentation(&mut self, extra: &NetifExtraInfo) {
        let (kind, size) = (extra.gso_type(), extra.gso_size());
        let known = match kind {
            XEN_NETIF_GSO_TYPE_TCPV4 => Some(GsoKind::TcpV4),
            XEN_NETIF_GSO_TYPE_TCPV6 => Some(GsoKind::TcpV6),
            _ => None,
        };
        match known {
            Some(known) if size != 0 => self.gso = Some((known, size)),
            _ => self.refuse(Fault::Segmentation { kind, size }),
        }
    }

    fn next(&mut self, slot: &NetifTxRequest) {
        if slot.flags & NETTXF_more_data == 0 {
            self.expect = Expect::First;
        }
        self.part(slot);
    }

    fn after_extras(&self) -> Expect {
        if self.more {
            Expect::Next
        } else {
            Expect::First
        }
    }

    fn part(&mut self, slot: &NetifTxRequest) {
        self.answers.push(Some(slot.id));
        if self.fault.is_some() {
            return;
        }
        if self.slots.len() == XEN_NETIF_NR_SLOTS_MIN {
            self.refuse(Fault::TooManySlots);
            return;
        }
        self.slots.push(Slot {
            gref: slot.gref,
            offset: slot.offset,
            len: slot.size,
        });
    }

    /// The first fault counts.
    fn refuse(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Takes the first part's own length out of the whole's, and looks whether each part is within its page.
    fn check_sizes(&mut self) -> Result<(), Fault> {
        if self.total < FRAME_MIN {
            return Err(Fault::TooShort(self.total));
        }
        let others = self.slots.iter().skip(1);
        let parts: u32 = others.map(|slot| u32::from(slot.len)).sum();
        let first = u16::try_from(parts)
            .ok()
            .and_then(|parts| self.total.checked_sub(parts))
            .ok_or(Fault::Size {
                total: self.total,
                parts,
            })?;
        if let Some(slot) = self.slots.first_mut() {
            slot.len = first;
        }
        let outside = |slot: &&Slot| usize::from(slot.offset) + usize::from(slot.len) > PAGE_SIZE;
        match self.slots.iter().find(outside) {
            Some(&Slot { offset, len, .. }) => Err(Fault::CrossesPage { offset, len }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
