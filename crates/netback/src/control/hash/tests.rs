use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cantle_abi::io::netif::{
    XEN_NETIF_CTRL_HASH_TYPE_IPV4, XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
    XEN_NETIF_CTRL_HASH_TYPE_IPV6, XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP,
};
use proptest::prelude::*;

use super::*;

/// The key of Microsoft's "Verifying the RSS Hash Calculation".
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Of the same: source, destination, the hash of the addresses, and of addresses and ports.
const VECTORS: [(&str, u16, &str, u16, u32, u32); 8] = [
    (
        "66.9.149.187",
        2794,
        "161.142.100.80",
        1766,
        0x323e_8fc2,
        0x51cc_c178,
    ),
    (
        "199.92.111.2",
        14230,
        "65.69.140.83",
        4739,
        0xd718_262a,
        0xc626_b0ea,
    ),
    (
        "24.19.198.95",
        12898,
        "12.22.207.184",
        38024,
        0xd2d0_a5de,
        0x5c2b_394a,
    ),
    (
        "38.27.205.30",
        48228,
        "209.142.163.6",
        2217,
        0x8298_9176,
        0xafc7_327f,
    ),
    (
        "153.39.163.191",
        44251,
        "202.188.127.2",
        1303,
        0x5d18_09c5,
        0x10e8_28a2,
    ),
    (
        "3ffe:2501:200:1fff::7",
        2794,
        "3ffe:2501:200:3::1",
        1766,
        0x2cc1_8cd5,
        0x4020_7d3d,
    ),
    (
        "3ffe:501:8::260:97ff:fe40:efab",
        14230,
        "ff02::1",
        4739,
        0x0f0c_461c,
        0xdde5_1bbf,
    ),
    (
        "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
        44251,
        "fe80::200:f8ff:fe21:67cf",
        38024,
        0x4b61_e985,
        0x02d1_feef,
    ),
];

const ALL: u32 = XEN_NETIF_CTRL_HASH_TYPE_IPV4
    | XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP
    | XEN_NETIF_CTRL_HASH_TYPE_IPV6
    | XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn config(types: u32) -> HashConfig {
    let mut config = HashConfig::new(NonZeroU32::new(4).unwrap());
    config
        .set_algorithm(XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ.into())
        .unwrap();
    config.set_types(types).unwrap();
    config.set_key(&KEY).unwrap();
    config
}

/// A frame between two addresses, with VLAN tags, IPv4 options or IPv6 extension headers of 8 bytes, and ports.
fn frame(source: IpAddr, destination: IpAddr, tags: usize, options: u8, protocol: u8) -> Vec<u8> {
    let mut frame = vec![0xaa; 12];
    for tag in 0..tags {
        frame.extend(if tag == 0 { [0x88, 0xa8] } else { [0x81, 0] });
        frame.extend([0, 5]);
    }
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45 + options * 2, 0, 0, 40, 0, 0, 0, 0, 64]);
            frame.extend([protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            frame.extend(vec![1; usize::from(options) * 8]);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let first = if options > 0 { 60 } else { protocol };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, first, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            for n in 0..options {
                let next = if n + 1 == options { protocol } else { 60 };
                frame.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
        }
        _ => panic!("addresses of one kind"),
    }
    frame
}

fn with_ports(mut frame: Vec<u8>, source: u16, destination: u16) -> Vec<u8> {
    frame.extend(source.to_be_bytes());
    frame.extend(destination.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
    frame
}

#[test]
fn the_well_known_vectors_come_out() {
    for (source, sport, destination, dport, addresses, ports) in VECTORS {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let (plain, tcp) = match source {
            IpAddr::V4(_) => (HashKind::Ipv4, HashKind::Ipv4Tcp),
            IpAddr::V6(_) => (HashKind::Ipv6, HashKind::Ipv6Tcp),
        };
        let of_addresses = Some(Hash {
            value: addresses,
            kind: plain,
        });
        let of_ports = Some(Hash {
            value: ports,
            kind: tcp,
        });
        for (tags, options) in [(0, 0), (1, 1), (2, 3)] {
            let make = |protocol| {
                let frame = frame(source, destination, tags, options, protocol);
                with_ports(frame, sport, dport)
            };
            let (tcp_frame, udp_frame) = (make(TCP), make(UDP));
            assert_eq!(config(ALL).hash(&tcp_frame), of_ports);
            assert_eq!(config(ALL).hash(&udp_frame), of_addresses);
            assert_eq!(config(plain.flag()).hash(&tcp_frame), of_addresses);
            assert_eq!(config(tcp.flag()).hash(&tcp_frame), of_ports);
            // Only what was asked for is ever hashed.
            assert_eq!(config(tcp.flag()).hash(&udp_frame), None);
            assert_eq!(
                config(ALL & !plain.flag() & !tcp.flag()).hash(&tcp_frame),
                None
            );
        }
    }
}

#[test]
fn all_fragments_of_a_packet_hash_alike() {
    let v4 = |n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
    let whole = with_ports(frame(v4(1), v4(2), 0, 0, TCP), 80, 4000);
    let mut first = whole.clone();
    first[20] = 0x20;
    let mut second = whole.clone();
    second[21] = 0x10;
    let hash = config(ALL).hash(&first).unwrap();
    assert_eq!(hash.kind, HashKind::Ipv4);
    assert_eq!(config(ALL).hash(&second), Some(hash));
    assert_eq!(config(ALL).hash(&whole).unwrap().kind, HashKind::Ipv4Tcp);
}

#[test]
fn what_is_no_ip_or_cut_short_has_no_hash() {
    let v6 = |n| IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n));
    let whole = with_ports(frame(v6(1), v6(2), 0, 0, TCP), 80, 4000);
    // Up to the end of the addresses there is nothing to hash, after it there is, and with the whole TCP header there are ports.
    for len in 0..=whole.len() {
        let kind = match len {
            0..54 => None,
            54..74 => Some(HashKind::Ipv6),
            _ => Some(HashKind::Ipv6Tcp),
        };
        let hash = config(ALL).hash(&whole[..len]);
        assert_eq!(hash.map(|hash| hash.kind), kind, "{len} bytes");
    }
    let mut arp = whole.clone();
    (arp[12], arp[13]) = (0x08, 0x06);
    assert_eq!(config(ALL).hash(&arp), None);
    let mut lies = whole;
    lies[14] = 0x45;
    assert_eq!(config(ALL).hash(&lies), None);
}

#[test]
fn nothing_is_hashed_unless_algorithm_and_types_are_set() {
    let v4 = |n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
    let frame = frame(v4(1), v4(2), 0, 0, UDP);
    let mut config = config(ALL);
    assert!(config.is_on() && config.hash(&frame).is_some());
    config.set_types(0).unwrap();
    assert!(!config.is_on() && config.hash(&frame).is_none());
    config.set_types(ALL).unwrap();
    config.set_algorithm(0).unwrap();
    assert!(!config.is_on() && config.hash(&frame).is_none());
    // What was said before is still there.
    config.set_algorithm(1).unwrap();
    assert!(config.is_on() && config.hash(&frame).is_some());
}

#[test]
fn a_hash_is_told_by_its_bits_number_and_algorithm() {
    let value = 0x5c2b_394a;
    for (number, kind) in (0..).zip(HashKind::ALL) {
        assert_eq!(kind.flag(), 1 << number);
        let extra = Hash { value, kind }.extra(1);
        assert_eq!((extra.hash_type(), extra.hash_algorithm()), (number, 1));
        assert_eq!((extra.hash_value(), extra.flags), (value, 1));
    }
}

#[test]
fn a_queue_is_the_mappings_entry_or_else_the_remainder() {
    let mut config = config(ALL);
    let queue = |config: &HashConfig, value| {
        config.queue(Some(Hash {
            value,
            kind: HashKind::Ipv4,
        }))
    };
    assert_eq!(
        [0, 1, 6, u32::MAX].map(|hash| queue(&config, hash)),
        [0, 1, 2, 3]
    );
    assert_eq!(config.queue(None), 0);
    config.set_mapping_size(3).unwrap();
    assert_eq!(
        [0, 1, 2, 6, u32::MAX].map(|hash| queue(&config, hash)),
        [0; 5]
    );
    config.set_mapping(0, &[3]).unwrap();
    config.set_mapping(1, &[1, 2]).unwrap();
    assert_eq!(
        [0, 1, 2, 3, 4, u32::MAX].map(|hash| queue(&config, hash)),
        [3, 1, 2, 3, 1, 3]
    );
    assert_eq!(config.queue(None), 3);
    // A new table of the same size is empty.
    config.set_mapping_size(3).unwrap();
    assert_eq!(queue(&config, 1), 0);
}

#[test]
fn each_limit_has_its_fault() {
    let mut config = HashConfig::new(NonZeroU32::MIN);
    assert_eq!(config.types(), Err(HashFault::NoAlgorithm));
    assert_eq!(config.set_types(1), Err(HashFault::TypesTooEarly(1)));
    assert_eq!(config.set_algorithm(2), Err(HashFault::Algorithm(2)));
    // 256 + 1: no truncation makes it one that there is.
    assert_eq!(config.set_algorithm(257), Err(HashFault::Algorithm(257)));
    config.set_algorithm(1).unwrap();
    assert_eq!(config.types(), Ok(15));
    assert_eq!(config.set_types(16), Err(HashFault::Types(16)));
    assert_eq!(config.set_key(&[0; 41]), Err(HashFault::KeySize(41)));
    assert_eq!(
        config.set_mapping_size(129),
        Err(HashFault::MappingSize(129))
    );
    config.set_mapping_size(128).unwrap();
    let beyond = |first, count| Err(HashFault::MappingOverflow { first, count });
    assert_eq!(config.check_mapping_range(127, 2), beyond(127, 2));
    assert_eq!(config.check_mapping_range(u32::MAX, 2), beyond(u32::MAX, 2));
    assert_eq!(config.check_mapping_range(127, 1), Ok(4));
    config.set_mapping_size(4).unwrap();
    let range = HashFault::MappingRange {
        first: 3,
        count: 2,
        size: 4,
    };
    assert_eq!(config.set_mapping(3, &[0, 0]), Err(range));
    let queue = HashFault::MappingQueue {
        queue: 1,
        queues: 1,
    };
    assert_eq!(config.set_mapping(0, &[0, 1]), Err(queue));
}

proptest! {
    /// Whatever the bytes and the configuration: no panic, and a queue that there is.
    #[test]
    fn any_frame_goes_to_a_queue_that_there_is(
        frame in prop::collection::vec(any::<u8>(), 0..300),
        kind in 0..4_usize,
        queues in 1..300_u32,
        types in 0..16_u32,
        size in 0..=128_u32,
        entries in prop::collection::vec(any::<u32>(), 128),
    ) {
        let mut frame = frame;
        let kinds = [[0x08, 0x00, 0x45], [0x86, 0xdd, 0x60], [0x81, 0x00, 0], [0x08, 0x06, 0]];
        if let Some(at) = frame.get_mut(12..15) {
            at.copy_from_slice(&kinds[kind]);
        }
        let mut config = HashConfig::new(NonZeroU32::new(queues).unwrap());
        config.set_algorithm(1).unwrap();
        config.set_types(types).unwrap();
        config.set_key(&KEY).unwrap();
        config.set_mapping_size(size).unwrap();
        let entries: Vec<u32> = entries.iter().map(|entry| entry % queues).collect();
        config.set_mapping(0, &entries[..to_usize(size)]).unwrap();
        let hash = config.hash(&frame);
        if let Some(hash) = hash {
            prop_assert!(types & hash.kind.flag() != 0);
            let expected = match size {
                0 => hash.value % queues,
                _ => entries[to_usize(hash.value % size)],
            };
            prop_assert_eq!(config.queue(Some(hash)), to_usize(expected));
        }
        prop_assert!(config.queue(hash) < to_usize(queues));
    }
}
