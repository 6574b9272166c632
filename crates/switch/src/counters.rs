//! What a port counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal,)+) => {
        /// Why a frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Each of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
        }

        impl fmt::Display for DropReason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)+
                })
            }
        }
    };
}

reasons! {
    /// Counted where it came from: shorter than an Ethernet header, too long, or its metadata is past its end.
    Malformed => "malformed",
    /// Counted where it came from: the source address is a group's, or all zeroes.
    BadSource => "bad source address",
    /// Counted where it came from: for an address that bridges do not forward.
    LinkLocal => "link-local",
    /// Counted where it came from: its VLAN is not this port's, or it has none, or has tags within tags where none may be.
    Vlan => "vlan not allowed",
    /// Counted where it came from: the port's filter has it that it is not this port's to send.
    Spoofed => "spoofed",
    /// Counted where it came from: its source is a static address of another port.
    StaticElsewhere => "another port's static address",
    /// Counted where it came from: too many broadcasts.
    BroadcastLimit => "broadcast limit",
    /// Counted where it came from: too many multicasts.
    MulticastLimit => "multicast limit",
    /// Counted where it came from: too many to addresses that nobody has.
    UnknownLimit => "unknown unicast limit",
    /// Counted where it came from: its destination is behind the same port.
    SamePort => "same port",
    /// Counted where it came from: both ports are isolated.
    Isolated => "isolated",
    /// Counted where it came from: the port was removed, or only receives copies.
    NotForwarding => "port does not forward",
    /// Counted where it was to go: the port is not in the VLAN.
    EgressVlan => "vlan not allowed at the destination",
    /// Counted where it was to go: without its tag it would pass for another VLAN's, or with one it is too long.
    EgressTag => "cannot be retagged",
    /// Counted where it was to go: nobody is there.
    NoSink => "no receiver",
    /// Counted where it was to go: whoever is there did not take it.
    NotTaken => "not taken",
}

const REASONS: usize = DropReason::ALL.len();

/// A port's counters, at one moment. `rx` is what the switch received from the port, `tx` what it sent to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Frames that came from the port, dropped ones included. A frame of segmentation counts once.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that its receiver took.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Addresses that moved here from another port.
    pub moves: u64,
    /// Addresses that moved too often to be believed: the frame went on, the address stayed where it was.
    pub flaps: u64,
    /// Frames whose source was not learned since the table, or the port's share of it, is full.
    pub unlearned: u64,
    /// An uplink's failures to receive.
    pub errors: u64,
    dropped: [u64; REASONS],
}

impl Counters {
    /// How many frames were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }

    /// How many were dropped for any.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped
            .iter()
            .fold(0, |sum, count| sum.wrapping_add(*count))
    }
}

/// The counters themselves. They order nothing, so each access is relaxed.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) rx_packets: Counter,
    pub(crate) rx_bytes: Counter,
    pub(crate) tx_packets: Counter,
    pub(crate) tx_bytes: Counter,
    pub(crate) moves: Counter,
    pub(crate) flaps: Counter,
    pub(crate) unlearned: Counter,
    pub(crate) errors: Counter,
    dropped: [Counter; REASONS],
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Live {
    pub(crate) fn drop(&self, reason: DropReason, frames: u64) {
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.add(frames);
        }
    }

    pub(crate) fn read(&self) -> Counters {
        let mut dropped = [0; REASONS];
        for (to, from) in dropped.iter_mut().zip(&self.dropped) {
            *to = from.get();
        }
        Counters {
            rx_packets: self.rx_packets.get(),
            rx_bytes: self.rx_bytes.get(),
            tx_packets: self.tx_packets.get(),
            tx_bytes: self.tx_bytes.get(),
            moves: self.moves.get(),
            flaps: self.flaps.get(),
            unlearned: self.unlearned.get(),
            errors: self.errors.get(),
            dropped,
        }
    }
}
