//! Packets of several flows.

use cantle_abi::io::netif::{XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6};
use cantle_netback::test_utils::{Outgoing, Shape};
use cantle_netport::headers::{IpVersion, Protocol};
use cantle_netport::test_utils::Recorded;
use cantle_netport::{Checksum, Gso, GsoKind, Offload};
use proptest::prelude::*;

/// How many flows there are.
pub(crate) const FLOWS: u8 = 6;

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) shape: Shape,
    pub(crate) flow: u8,
    pub(crate) blank: bool,
    pub(crate) gso: Option<u16>,
}

impl Packet {
    /// Its bytes: the shape's, with addresses of its flow. They are changed so that no sum changes.
    pub(crate) fn build(&self, blank: bool) -> Vec<u8> {
        let mut bytes = self.shape.build(blank);
        let (source, destination) = self.addresses();
        bytes[source] += self.flow;
        let word = &mut bytes[destination..destination + 2];
        let lower = u16::from_be_bytes([word[0], word[1]]) - u16::from(self.flow);
        word.copy_from_slice(&lower.to_be_bytes());
        bytes
    }

    /// Where the low byte of a word of the source's address is, and a word of the destination's.
    fn addresses(&self) -> (usize, usize) {
        let ip = 14 + self.shape.vlans * 4;
        match self.shape.version {
            IpVersion::V4 => (ip + 13, ip + 16),
            IpVersion::V6 => (ip + 11, ip + 24),
        }
    }

    pub(crate) fn checksum(&self) -> Checksum {
        if !self.blank {
            return Checksum::Present;
        }
        Checksum::Blank {
            start: u16::try_from(self.shape.start()).unwrap(),
            offset: u16::try_from(self.shape.checksum_offset()).unwrap(),
        }
    }

    /// Bytes of all headers.
    pub(crate) fn headers(&self) -> usize {
        let transport = match self.shape.protocol {
            Protocol::Tcp => 20 + self.shape.tcp_options * 4,
            Protocol::Udp => 8,
        };
        self.shape.start() + transport
    }

    /// As it is on the port's side.
    pub(crate) fn recorded(&self) -> Recorded {
        let kind = match self.shape.version {
            IpVersion::V4 => GsoKind::TcpV4,
            IpVersion::V6 => GsoKind::TcpV6,
        };
        let gso = self.gso.map(|size| Gso {
            kind,
            size,
            header_len: u16::try_from(self.headers()).unwrap(),
            ecn: false,
        });
        Recorded {
            bytes: self.build(self.blank),
            offload: Offload {
                checksum: self.checksum(),
                gso,
            },
        }
    }

    /// How extra info says its segmentation.
    pub(crate) fn said(&self) -> Option<(u8, u16)> {
        let kind = match self.shape.version {
            IpVersion::V4 => XEN_NETIF_GSO_TYPE_TCPV4,
            IpVersion::V6 => XEN_NETIF_GSO_TYPE_TCPV6,
        };
        self.gso.map(|size| (kind, size))
    }

    pub(crate) fn outgoing<'a>(
        &self,
        bytes: &'a [u8],
        split: &'a [usize],
        offset: usize,
    ) -> Outgoing<'a> {
        Outgoing {
            bytes,
            csum_blank: self.blank,
            data_validated: self.blank,
            gso: self.said(),
            split,
            offset,
        }
    }
}

/// The flow of a frame: which addresses it has, behind however many tags.
pub(crate) fn flow_of(frame: &[u8]) -> u8 {
    let mut at = 12;
    while frame[at..at + 2] == [0x81, 0] {
        at += 4;
    }
    match frame[at..at + 2] {
        [8, 0] => frame[at + 2 + 13],
        _ => frame[at + 2 + 11],
    }
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let version = prop_oneof![Just(IpVersion::V4), Just(IpVersion::V6)];
    let payload = prop_oneof![0..200_usize, 0..9000_usize];
    let tags = prop_oneof![4 => Just(0_usize), 1 => 1..3_usize];
    let kind = 0..4_u8;
    (
        (tags, version, 0..5_usize, 0..6_usize, any::<u8>()),
        (payload, kind, 0..FLOWS, any::<bool>()),
        (400..3000_u16, 0..20_000_usize),
    )
        .prop_map(
            |(
                (vlans, version, options, tcp_options, seed),
                (payload, kind, flow, blank),
                (size, large),
            )| {
                let is_large = kind == 3;
                let protocol = if kind == 0 {
                    Protocol::Udp
                } else {
                    Protocol::Tcp
                };
                let len = if is_large {
                    usize::from(size) + large
                } else {
                    payload
                };
                let payload = (0..len).map(|n| seed.wrapping_add(u8::try_from(n % 251).unwrap()));
                Packet {
                    shape: Shape {
                        vlans,
                        version,
                        options,
                        protocol,
                        tcp_options,
                        payload: payload.collect(),
                    },
                    flow,
                    blank: blank || is_large,
                    gso: is_large.then_some(size),
                }
            },
        )
}
