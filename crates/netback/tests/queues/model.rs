//! What should become of a packet, worked out the plain way.

use std::num::NonZeroU32;

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::netif::{NETRXF_csum_blank, NETRXF_data_validated};
use cantle_netback::control::HashConfig;
use cantle_netback::test_utils::{FrontOptions, Incoming, transport_sum};
use cantle_netport::headers::IpVersion;
use proptest::prelude::*;

use crate::Setup;
use crate::packets::{Packet, flow_of};

/// What a front end says of hashing.
#[derive(Clone, Debug)]
pub(crate) struct Hashing {
    pub(crate) key: Vec<u8>,
    pub(crate) types: u32,
    pub(crate) mapping: Vec<u32>,
}

impl Hashing {
    pub(crate) fn config(&self, queues: u32) -> HashConfig {
        let mut config = HashConfig::new(NonZeroU32::new(queues).unwrap());
        config.set_algorithm(1).unwrap();
        config.set_key(&self.key).unwrap();
        config
            .set_mapping_size(u32::try_from(self.mapping.len()).unwrap())
            .unwrap();
        config.set_mapping(0, &self.mapping).unwrap();
        config.set_types(self.types).unwrap();
        config
    }
}

pub(crate) fn hashing(queues: u32) -> impl Strategy<Value = Hashing> {
    let key = prop::collection::vec(any::<u8>(), 40);
    let mapping = prop::collection::vec(0..queues, 0..=128);
    (key, 1..16_u32, mapping).prop_map(|(key, types, mapping)| Hashing {
        key,
        types,
        mapping,
    })
}

pub(crate) struct Model {
    front: FrontOptions,
    hash: Option<HashConfig>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Frames that arrive; 0 where it is dropped.
    pub(crate) count: usize,
    /// It arrives whole, and is to be cut up by the guest.
    whole: bool,
    /// Its sum is left blank.
    blank: bool,
}

impl Model {
    pub(crate) fn new(front: &FrontOptions, hash: Option<HashConfig>) -> Self {
        Self {
            front: front.clone(),
            hash,
        }
    }

    /// Bytes of the longest frame.
    fn longest(&self) -> usize {
        let room = PAGE_SIZE - usize::from(self.front.headroom);
        if self.front.sg { 18 * room } else { room }
    }

    fn takes_blank(&self, packet: &Packet) -> bool {
        let takes = match packet.shape.version {
            IpVersion::V4 => self.front.csum_v4,
            IpVersion::V6 => self.front.csum_v6,
        };
        // Behind a tag it would not be found.
        takes && packet.shape.vlans == 0
    }

    fn takes_large(&self, packet: &Packet) -> bool {
        let says = match packet.shape.version {
            IpVersion::V4 => self.front.gso_v4 || self.front.gso_v4_prefix,
            IpVersion::V6 => self.front.gso_v6 || self.front.gso_v6_prefix,
        };
        says && self.front.sg && self.takes_blank(packet)
    }

    pub(crate) fn expect(&self, packet: &Packet) -> Expected {
        let len = packet.headers() + packet.shape.payload.len();
        let fits = len <= self.longest();
        let dropped = Expected {
            count: 0,
            whole: false,
            blank: false,
        };
        let Some(size) = packet.gso else {
            let blank = packet.blank && self.takes_blank(packet);
            let passed = Expected {
                count: 1,
                blank,
                ..dropped
            };
            return if fits { passed } else { dropped };
        };
        if fits && self.takes_large(packet) {
            return Expected {
                count: 1,
                whole: true,
                blank: true,
            };
        }
        let payload = packet.shape.payload.len();
        let first = packet.headers() + usize::from(size).min(payload);
        if first > self.longest() {
            return dropped;
        }
        Expected {
            count: payload.div_ceil(size.into()),
            ..dropped
        }
    }

    /// Looks through what has arrived for a flow's frames: all of them on one queue, in order, as they should be.
    pub(crate) fn check_flow(
        &self,
        setup: &Setup,
        flow: u8,
        sent: &[&Packet],
        arrived: &[Vec<Incoming>],
    ) {
        let of_flow = |frame: &&Incoming| flow_of(&frame.bytes) == flow;
        // A flow of a front end's hash is what is hashed; others are what their addresses and ports say.
        for (n, packet) in sent.iter().enumerate() {
            let same = |other: &&&Packet| {
                other.shape.version == packet.shape.version
                    && other.shape.protocol == packet.shape.protocol
            };
            if sent[..n].iter().any(|other| same(&other)) {
                continue;
            }
            let run: Vec<&Packet> = sent.iter().filter(same).copied().collect();
            let mine = |frame: &&Incoming| of_flow(frame) && kind_of(&frame.bytes) == kind(packet);
            let per_queue: Vec<Vec<&Incoming>> = arrived
                .iter()
                .map(|queue| queue.iter().filter(mine).collect())
                .collect();
            let queue = self.queue(setup, packet, &per_queue);
            for (other, frames) in per_queue.iter().enumerate() {
                assert!(
                    other == queue || frames.is_empty(),
                    "a flow on several queues"
                );
            }
            self.check_run(&run, &per_queue[queue]);
        }
    }

    fn queue(&self, setup: &Setup, packet: &Packet, arrived: &[Vec<&Incoming>]) -> usize {
        if setup.queues == 1 {
            return 0;
        }
        if let Some(config) = self.hash.as_ref().filter(|config| config.is_on()) {
            return config.queue(config.hash(&packet.build(false)));
        }
        if !setup.pushed {
            return usize::from(packet.flow) % arrived.len();
        }
        // Ours to choose, as long as it is one.
        let used = arrived.iter().position(|frames| !frames.is_empty());
        used.unwrap_or(0)
    }

    fn check_run(&self, sent: &[&Packet], arrived: &[&Incoming]) {
        let mut arrived = arrived.iter();
        for packet in sent {
            let expected = self.expect(packet);
            let frames: Vec<&&Incoming> = arrived.by_ref().take(expected.count).collect();
            assert_eq!(frames.len(), expected.count, "{packet:?}");
            for frame in &frames {
                assert!(!frame.error);
                assert_eq!(frame.offset, self.front.headroom);
                let hash = self.hash.as_ref();
                let hash = hash.and_then(|config| config.hash(&packet.build(false)));
                let hash = hash.map(|hash| (hash.kind as u8, hash.value));
                assert_eq!(frame.hash, hash, "{packet:?}");
                let blank = frame.flags & NETRXF_csum_blank != 0;
                assert_eq!(blank, expected.blank, "{packet:?}");
                assert!(!blank || frame.flags & NETRXF_data_validated != 0);
                assert!(blank || transport_sum(&packet.shape, &frame.bytes) == 0xffff);
            }
            let (extra, prefix) = match packet.said() {
                Some((kind, size)) if expected.whole => {
                    let newer = match packet.shape.version {
                        IpVersion::V4 => self.front.gso_v4,
                        IpVersion::V6 => self.front.gso_v6,
                    };
                    if newer {
                        (Some((kind, size)), None)
                    } else {
                        (None, Some(size))
                    }
                }
                _ => (None, None),
            };
            assert!(
                frames
                    .iter()
                    .all(|frame| (frame.gso, frame.prefix) == (extra, prefix))
            );
            if packet.gso.is_none() || expected.whole {
                let bytes = packet.build(expected.blank);
                assert!(frames.iter().all(|frame| frame.bytes == bytes));
            } else if expected.count > 0 {
                let headers = packet.headers();
                let payload: Vec<u8> = frames
                    .iter()
                    .flat_map(|frame| frame.bytes[headers..].to_vec())
                    .collect();
                assert_eq!(payload, packet.shape.payload, "in pieces, in order");
            }
        }
        assert_eq!(arrived.count(), 0, "nothing else comes");
    }
}

/// Ethertype and, of an IPv4 packet without a tag, its protocol: enough to tell a flow's kinds apart.
type Kind = (IpVersion, cantle_netport::headers::Protocol);

fn kind(packet: &Packet) -> Kind {
    (packet.shape.version, packet.shape.protocol)
}

fn kind_of(frame: &[u8]) -> Kind {
    let found = cantle_netport::headers::transport(frame).unwrap();
    (found.version, found.protocol)
}
