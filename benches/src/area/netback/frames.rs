//! What is sent: frames of three kinds, and how a ring and a tap say them.

use anyhow::Result;
use cantle_abi::io::netif::XEN_NETIF_GSO_TYPE_TCPV4;
use cantle_netback::test_utils::{Outgoing, Shape};
use cantle_netport::headers::{IpVersion, Protocol};
use cantle_netport::{Checksum, Frame, Gso, GsoKind, Offload, Part, vnet};

use crate::measure::Unit;
use crate::private_net::HEADER;

/// TCP payload of a full-sized packet.
const SEGMENT: u16 = 1448;
/// Bytes before TCP's payload.
const TCP_HEADERS: usize = 54;
/// Of 45 segments.
const GSO_LEN: usize = TCP_HEADERS + 45 * SEGMENT as usize;
/// Flows that frames which are fed take turns among.
const FLOWS: u8 = 32;
/// Where the ports are in a frame, of TCP and UDP alike.
const SOURCE_PORT: usize = 34;
const MIB: f64 = 1_048_576.0;

/// A kind of frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// UDP, 64 bytes of Ethernet.
    Small,
    /// TCP, 1500 bytes of IP.
    Full,
    /// TCP, 45 segments in one: 65,214 bytes (the most that a request can say is 65,535), unsegmented and with a blank checksum.
    Gso,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Small, Self::Full, Self::Gso];

    /// In a row's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Small => "pps_64",
            Self::Full => "pps_1500",
            Self::Gso => "gso_64k",
        }
    }

    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Small | Self::Full => Unit::PerSecond,
            Self::Gso => Unit::MebibytesPerSecond,
        }
    }
}

/// A frame of a kind.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
    pub(super) offload: Offload,
}

impl Packet {
    pub(super) fn new(kind: Kind) -> Result<Self> {
        Self::of(kind, GSO_LEN)
    }

    /// One whose length, if it is a large one, is this.
    pub(super) fn of(kind: Kind, len: usize) -> Result<Self> {
        let shape = match kind {
            Kind::Small => Shape {
                protocol: Protocol::Udp,
                ..Shape::tcp(IpVersion::V4, vec![7; 64 - 42])
            },
            Kind::Full => Shape::tcp(IpVersion::V4, vec![7; 1460]),
            Kind::Gso => Shape::tcp(IpVersion::V4, vec![7; len - TCP_HEADERS]),
        };
        let large = kind == Kind::Gso;
        let offload = if large {
            Offload {
                checksum: Checksum::Blank {
                    start: u16::try_from(shape.start())?,
                    offset: u16::try_from(shape.checksum_offset())?,
                },
                gso: Some(Gso {
                    kind: GsoKind::TcpV4,
                    size: SEGMENT,
                    header_len: u16::try_from(shape.start() + 20)?,
                    ecn: false,
                }),
            }
        } else {
            Offload::default()
        };
        Ok(Self {
            kind,
            bytes: shape.build(large),
            offload,
        })
    }

    /// The frame in these parts.
    pub(super) fn frame<'p>(&self, parts: &'p [Part<'p>]) -> Frame<'p> {
        Frame {
            parts,
            len: self.bytes.len(),
            offload: self.offload,
            taken: false,
        }
    }

    /// The header that a tap has before it.
    pub(super) fn header(&self) -> [u8; HEADER] {
        vnet::emit(&self.offload)
    }

    /// The frame in several flows: the ports differ, and with them what queues are chosen by. The checksum stays right.
    pub(super) fn flows(&self) -> Vec<Vec<u8>> {
        (0..FLOWS)
            .map(|flow| {
                let mut bytes = self.bytes.clone();
                if let Some([_, source, _, destination]) =
                    bytes.get_mut(SOURCE_PORT..SOURCE_PORT + 4)
                {
                    *source += flow;
                    *destination -= flow;
                }
                bytes
            })
            .collect()
    }

    /// As a front end sends it.
    pub(super) fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            bytes: &self.bytes,
            csum_blank: matches!(self.offload.checksum, Checksum::Blank { .. }),
            gso: self
                .offload
                .gso
                .map(|gso| (XEN_NETIF_GSO_TYPE_TCPV4, gso.size)),
            ..Outgoing::default()
        }
    }

    /// Pages that it takes.
    pub(super) fn pages(&self) -> usize {
        self.bytes.len().div_ceil(cantle_abi::PAGE_SIZE)
    }

    /// How many are put into a tap before they are read: long enough that waking the reader up is little beside it.
    pub(super) fn burst(&self) -> usize {
        match self.kind {
            Kind::Small | Kind::Full => 8192,
            Kind::Gso => 256,
        }
    }

    /// So many packets a second, in the kind's unit.
    pub(super) fn figure(&self, per_second: f64) -> f64 {
        match self.kind {
            Kind::Small | Kind::Full => per_second,
            Kind::Gso => per_second * self.bytes.len() as f64 / MIB,
        }
    }
}
