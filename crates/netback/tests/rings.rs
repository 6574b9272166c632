//! Front end to back end over real rings, with a recorder where the wire would be.

use cantle_abi::io::netif::{
    NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NETRXF_csum_blank,
    NETRXF_data_validated, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6,
};
use cantle_netback::Backend;
use cantle_netback::test_utils::{
    FrontOptions, NetFront, Outgoing, Shape, World, settle, transport_sum,
};
use cantle_netport::headers::{IpVersion, Protocol};
use cantle_netport::test_utils::{Recorded, Recorder, RecorderHandle};
use cantle_netport::{Checksum, Gso, GsoKind, Offload, Offloads};
use cantle_xenstore::xenbus::XenbusState;
use proptest::prelude::*;

fn connect(options: &FrontOptions) -> (World, Backend, NetFront, RecorderHandle) {
    let world = World::new();
    let (port, wire) = Recorder::new().expect("a descriptor");
    let mut backend = world
        .backend(Box::new(port))
        .expect("the directories are there");
    let front = world.front(options);
    assert!(settle(&mut backend));
    assert_eq!(front.backend_state(), XenbusState::CONNECTED);
    (world, backend, front, wire)
}

fn statuses(front: &mut NetFront) -> Vec<i16> {
    let responses = front.responses();
    responses.iter().map(|response| response.status).collect()
}

fn plain(bytes: Vec<u8>) -> Recorded {
    Recorded {
        bytes,
        offload: Offload::default(),
    }
}

fn blank(shape: &Shape) -> Checksum {
    Checksum::Blank {
        start: u16::try_from(shape.start()).expect("near the start"),
        offset: u16::try_from(shape.checksum_offset()).expect("6 or 16"),
    }
}

#[test]
fn the_offer_is_published() {
    let world = World::new();
    let (port, wire) = Recorder::new().expect("a descriptor");
    let backend = world
        .backend(Box::new(port))
        .expect("the directories are there");
    assert_eq!(backend.state(), XenbusState::INIT_WAIT);
    let front = world.front(&FrontOptions::default());
    for (key, value) in [
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-rx-copy", "1"),
        ("feature-rx-flip", "0"),
        ("feature-split-event-channels", "1"),
        ("multi-queue-max-queues", "1"),
    ] {
        assert_eq!(front.backend_key(key).as_deref(), Some(value), "{key}");
    }
    for key in [
        "feature-ctrl-ring",
        "feature-multicast-control",
        "feature-dynamic-multicast-control",
        "feature-xdp-headroom",
    ] {
        assert_eq!(front.backend_key(key).as_deref(), Some("1"), "{key}");
    }
    assert!(!wire.link(), "nobody is there yet");
}

#[test]
fn a_packet_goes_out_and_another_comes_in() {
    for split_channels in [true, false] {
        let options = FrontOptions {
            split_channels,
            ..FrontOptions::default()
        };
        let (_world, mut backend, mut front, wire) = connect(&options);
        assert!(wire.link());
        let out: Vec<u8> = (0..100).collect();
        assert!(front.send(&Outgoing {
            bytes: &out,
            ..Outgoing::default()
        }));
        front.kick();
        wire.inject(plain(vec![5; 60]));
        settle(&mut backend);
        assert_eq!(wire.take_sent(), [plain(out)]);
        assert_eq!(statuses(&mut front), [NETIF_RSP_OKAY]);
        let incoming = front.receive();
        assert_eq!(incoming.len(), 1);
        assert_eq!(incoming[0].bytes, [5; 60]);
        assert!(!incoming[0].error);
        let stats = backend.stats();
        assert_eq!(
            (stats.tx.counts().packets, stats.tx.counts().bytes),
            (1, 100)
        );
        assert_eq!(
            (stats.rx.counts().packets, stats.rx.counts().bytes),
            (1, 60)
        );
    }
}

#[test]
fn a_large_packet_crosses_whole_both_ways() {
    for (version, kind, gso_kind) in [
        (IpVersion::V4, XEN_NETIF_GSO_TYPE_TCPV4, GsoKind::TcpV4),
        (IpVersion::V6, XEN_NETIF_GSO_TYPE_TCPV6, GsoKind::TcpV6),
    ] {
        let (_world, mut backend, mut front, wire) = connect(&FrontOptions::default());
        let payload = (0..64_000_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
        let shape = Shape::tcp(version, payload);
        let bytes = shape.build(true);
        assert!(front.send(&Outgoing {
            bytes: &bytes,
            csum_blank: true,
            data_validated: true,
            gso: Some((kind, 1448)),
            ..Outgoing::default()
        }));
        front.kick();
        settle(&mut backend);
        let offload = Offload {
            checksum: blank(&shape),
            gso: Some(Gso {
                kind: gso_kind,
                size: 1448,
                header_len: u16::try_from(shape.start() + 20).unwrap(),
                ecn: false,
            }),
        };
        let recorded = Recorded { bytes, offload };
        assert_eq!(wire.take_sent(), std::slice::from_ref(&recorded));
        let answers = statuses(&mut front);
        assert_eq!(answers.len(), recorded.bytes.len().div_ceil(4096) + 1);
        assert_eq!(
            answers
                .iter()
                .filter(|status| **status == NETIF_RSP_NULL)
                .count(),
            1
        );

        wire.inject(recorded.clone());
        settle(&mut backend);
        let incoming = front.receive();
        assert_eq!(incoming.len(), 1);
        assert_eq!(incoming[0].bytes, recorded.bytes);
        assert_eq!(incoming[0].gso, Some((kind, 1448)));
        let flags = NETRXF_csum_blank | NETRXF_data_validated;
        assert_eq!(incoming[0].flags & flags, flags);
    }
}

#[test]
fn a_large_packet_without_csum_blank_is_given_the_start_of_its_sum() {
    let (_world, mut backend, mut front, wire) = connect(&FrontOptions::default());
    for payload in [3000, 20_000] {
        let shape = Shape::tcp(IpVersion::V4, vec![3; payload]);
        assert!(front.send(&Outgoing {
            bytes: &shape.build(false),
            gso: Some((XEN_NETIF_GSO_TYPE_TCPV4, 1000)),
            ..Outgoing::default()
        }));
        front.kick();
        settle(&mut backend);
        let sent = wire.take_sent();
        assert_eq!(
            sent[0].bytes,
            shape.build(true),
            "the pseudo-header's sum is in the field"
        );
        assert_eq!(sent[0].offload.checksum, blank(&shape));
    }
}

#[test]
fn a_port_that_refuses_is_answered_as_dropped() {
    let (_world, mut backend, mut front, wire) = connect(&FrontOptions::default());
    wire.refuse(true);
    assert!(front.send(&Outgoing {
        bytes: &[1; 100],
        ..Outgoing::default()
    }));
    front.kick();
    settle(&mut backend);
    assert_eq!(statuses(&mut front), [NETIF_RSP_DROPPED]);
    assert_eq!(backend.stats().tx.counts().dropped, 1);
}

#[test]
fn flags_without_the_headers_for_them_are_refused() {
    let (_world, mut backend, mut front, wire) = connect(&FrontOptions::default());
    let v6 = Shape::tcp(IpVersion::V6, vec![0; 100]).build(true);
    let mut udp = Shape::tcp(IpVersion::V4, vec![0; 100]);
    udp.protocol = Protocol::Udp;
    let udp = udp.build(true);
    let gso = Some((XEN_NETIF_GSO_TYPE_TCPV4, 50));
    for (bytes, gso) in [
        (vec![0; 60], None),
        (v6, gso),
        (udp, gso),
        (vec![0; 9000], gso),
    ] {
        assert!(front.send(&Outgoing {
            bytes: &bytes,
            csum_blank: true,
            gso,
            ..Outgoing::default()
        }));
        front.kick();
        settle(&mut backend);
        let answers = statuses(&mut front);
        let sound = |status: &i16| matches!(*status, NETIF_RSP_ERROR | NETIF_RSP_NULL);
        assert!(
            answers.iter().all(sound) && answers[0] == NETIF_RSP_ERROR,
            "{answers:?}"
        );
    }
    assert!(wire.take_sent().is_empty());
    assert_eq!(backend.stats().tx.counts().errors, 4);
}

#[test]
fn the_port_is_told_what_the_front_end_takes() {
    let all = FrontOptions::default();
    let cases = [
        (all.clone(), (true, true, true)),
        (
            FrontOptions {
                csum_v4: false,
                ..all.clone()
            },
            (true, false, true),
        ),
        (
            FrontOptions {
                csum_v6: false,
                ..all.clone()
            },
            (true, true, false),
        ),
        (
            FrontOptions {
                sg: false,
                ..all.clone()
            },
            (true, false, false),
        ),
        (
            FrontOptions {
                gso_v4: false,
                ..all.clone()
            },
            (true, false, true),
        ),
        (
            FrontOptions {
                csum_v4: false,
                csum_v6: false,
                ..all
            },
            (false, false, false),
        ),
    ];
    for (options, (checksum, tso_v4, tso_v6)) in cases {
        let (_world, _backend, _front, wire) = connect(&options);
        let expected = Offloads {
            checksum,
            tso_v4,
            tso_v6,
        };
        assert_eq!(wire.accepted(), expected, "{options:?}");
    }
}

#[test]
fn what_the_front_end_does_not_take_is_not_given_to_it() {
    let options = FrontOptions {
        gso_v4: false,
        sg: false,
        ..FrontOptions::default()
    };
    let (_world, mut backend, mut front, wire) = connect(&options);
    let shape = Shape::tcp(IpVersion::V4, vec![0; 2000]);
    wire.inject(Recorded {
        bytes: shape.build(true),
        offload: Offload {
            checksum: blank(&shape),
            gso: Some(Gso {
                kind: GsoKind::TcpV4,
                size: 500,
                header_len: 54,
                ecn: false,
            }),
        },
    });
    wire.inject(plain(vec![0; 4097]));
    wire.inject(plain(vec![1; 4096]));
    settle(&mut backend);
    let mut incoming = front.receive();
    assert_eq!(incoming.pop().expect("the plain one").bytes, [1; 4096]);
    // The large one comes in pieces, each with its sum.
    assert_eq!(incoming.len(), 4);
    for piece in &incoming {
        assert_eq!((piece.flags, piece.gso), (0, None));
        assert_eq!(piece.bytes.len(), 54 + 500);
        assert_eq!(transport_sum(&shape, &piece.bytes), 0xffff);
    }
    assert_eq!(backend.stats().rx.counts().dropped, 1);
}

#[test]
fn a_front_end_that_lacks_what_we_need_is_refused() {
    let key = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    for keys in [
        key("request-rx-copy", "0"),
        key("request-rx-copy", ""),
        key("feature-rx-notify", ""),
        key("multi-queue-num-queues", "2"),
        key("multi-queue-num-queues", "0"),
        key("tx-ring-ref", "4000000000"),
        key("rx-ring-ref", "nonsense"),
        key("event-channel-tx", "999"),
        key("event-channel-rx", ""),
    ] {
        let world = World::new();
        let (port, wire) = Recorder::new().expect("a descriptor");
        let mut backend = world
            .backend(Box::new(port))
            .expect("the directories are there");
        let front = world.front(&FrontOptions {
            keys: keys.clone(),
            ..FrontOptions::default()
        });
        settle(&mut backend);
        assert_eq!(front.backend_state(), XenbusState::CLOSING, "{keys:?}");
        assert!(!wire.link());
    }
}

#[test]
fn a_front_end_can_go_and_come_again() {
    let (world, mut backend, front, wire) = connect(&FrontOptions::default());
    for _ in 0..3 {
        front.set_state(XenbusState::CLOSING);
        settle(&mut backend);
        front.set_state(XenbusState::CLOSED);
        settle(&mut backend);
        assert_eq!(front.backend_state(), XenbusState::CLOSED);
        assert!(!wire.link());
        front.set_state(XenbusState::INITIALISING);
        settle(&mut backend);
        assert_eq!(front.backend_state(), XenbusState::INIT_WAIT);
        front.set_state(XenbusState::CONNECTED);
        settle(&mut backend);
    }
    drop(front);
    let mut front = world.front(&FrontOptions {
        rx_buffers: 10,
        ..FrontOptions::default()
    });
    front.set_state(XenbusState::INITIALISING);
    settle(&mut backend);
    front.set_state(XenbusState::CONNECTED);
    settle(&mut backend);
    wire.inject(plain(vec![9; 99]));
    settle(&mut backend);
    assert_eq!(front.receive().len(), 1);
}

fn shapes(payload_max: usize) -> impl Strategy<Value = Shape> {
    let version = prop_oneof![Just(IpVersion::V4), Just(IpVersion::V6)];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let payload = prop_oneof![0..200_usize, 0..payload_max];
    (
        0..3_usize,
        version,
        0..9_usize,
        protocol,
        0..11_usize,
        payload,
        any::<u8>(),
    )
        .prop_map(
            |(vlans, version, options, protocol, tcp_options, len, seed)| Shape {
                vlans,
                version,
                options,
                protocol,
                tcp_options,
                payload: (0..len)
                    .map(|n| seed.wrapping_add(n.to_le_bytes()[0]))
                    .collect(),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However a packet is spread over slots, what leaves the port is what went in, and its checksum is found.
    #[test]
    fn what_goes_in_comes_out(
        packets in proptest::collection::vec(
            (shapes(60_000), any::<bool>(), proptest::collection::vec(0..300_usize, 0..3), 0..4096_usize),
            1..5,
        )
    ) {
        let (_world, mut backend, mut front, wire) = connect(&FrontOptions::default());
        let mut expected = Vec::new();
        for (shape, csum_blank, split, offset) in &packets {
            let bytes = shape.build(*csum_blank);
            let packet = Outgoing {
                bytes: &bytes,
                csum_blank: *csum_blank,
                data_validated: *csum_blank,
                gso: None,
                split,
                offset: *offset,
            };
            prop_assert!(front.send(&packet));
            let checksum = if *csum_blank { blank(shape) } else { Checksum::Present };
            expected.push(Recorded { bytes, offload: Offload { checksum, gso: None } });
        }
        front.kick();
        settle(&mut backend);
        prop_assert_eq!(wire.take_sent(), expected);
        prop_assert!(statuses(&mut front).iter().all(|status| *status == NETIF_RSP_OKAY));
        prop_assert_eq!(front.unanswered(), 0);
    }

    /// Whatever the front end takes, it gets each frame with a checksum that is right, or that it can complete by itself.
    #[test]
    fn what_comes_in_is_what_the_front_end_takes(
        shape in shapes(8_000),
        csum_blank: bool,
        csum_v4: bool,
        csum_v6: bool,
    ) {
        let options = FrontOptions { csum_v4, csum_v6, ..FrontOptions::default() };
        let (_world, mut backend, mut front, wire) = connect(&options);
        let checksum = if csum_blank { blank(&shape) } else { Checksum::Present };
        let bytes = shape.build(csum_blank);
        wire.inject(Recorded { bytes: bytes.clone(), offload: Offload { checksum, gso: None } });
        settle(&mut backend);
        let incoming = front.receive();
        prop_assert_eq!(incoming.len(), 1);
        let takes = shape.vlans == 0 && match shape.version {
            IpVersion::V4 => csum_v4,
            IpVersion::V6 => csum_v6,
        };
        let left_blank = incoming[0].flags & NETRXF_csum_blank != 0;
        prop_assert_eq!(left_blank, csum_blank && takes);
        if left_blank {
            prop_assert_eq!(&incoming[0].bytes, &bytes);
        } else {
            prop_assert_eq!(transport_sum(&shape, &incoming[0].bytes), 0xffff);
            prop_assert_eq!(&incoming[0].bytes, &shape.build(false));
        }
    }
}
