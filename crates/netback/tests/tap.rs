//! Two guests on two taps, with this machine's own kernel as the router between them.
//!
//! Runs in a network namespace of its own, for which it has to be root; says so and does nothing elsewhere.

use std::time::{Duration, Instant};

use cantle_abi::io::netif::{
    NETIF_RSP_NULL, NETIF_RSP_OKAY, NETRXF_csum_blank, XEN_NETIF_GSO_TYPE_TCPV4,
};
use cantle_netback::test_utils::{
    FrontOptions, Incoming, NetFront, Outgoing, Running, Shape, World, in_netns, ip, transport_sum,
};
use cantle_netport::headers::{IpVersion, Protocol};
use cantle_netport::{Tap, TapError};
use cantle_xenstore::xenbus::XenbusState;

const PATIENCE: Duration = Duration::from_secs(10);

struct Guest {
    _world: World,
    _running: Running,
    front: NetFront,
}

fn guest(tap: Tap, options: &FrontOptions) -> Guest {
    let world = World::new();
    let backend = world
        .backend(Box::new(tap))
        .expect("the directories are there");
    let front = world.front(options);
    let running = World::serve(backend);
    assert!(front.wait_state(XenbusState::CONNECTED, PATIENCE));
    Guest {
        _world: world,
        _running: running,
        front,
    }
}

/// A tap. Another test that starts a program just then has, until that program runs, a copy of each of this process's
/// descriptors, also of the tap of that name that this test has closed.
fn tap(name: &str) -> Tap {
    let until = Instant::now() + PATIENCE;
    loop {
        match Tap::create(name) {
            Err(TapError::Busy { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other.expect("a tap"),
        }
    }
}

/// Two guests: frames from the first to 10.0.2.2 are routed to the second.
fn two_guests(options: &FrontOptions) -> (Guest, Guest) {
    let (left, right) = (tap("left0"), tap("right0"));
    for line in [
        // The addresses that `Shape` puts in its frames: the router, and the two ends.
        "link set left0 address 02:00:00:00:00:01",
        "addr add 10.0.0.254/24 dev left0",
        "link set left0 up",
        "link set right0 up",
        "route add 10.0.0.2/32 dev right0",
        "neigh add 10.0.0.2 lladdr 02:00:00:00:00:99 dev right0 nud permanent",
        "neigh add 10.0.0.1 lladdr 02:00:00:00:00:02 dev left0 nud permanent",
    ] {
        ip(line);
    }
    // The file is that of the namespace of whoever opens it.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a namespace of our own");
    (guest(left, &FrontOptions::default()), guest(right, options))
}

/// Sends and waits for what arrives at the other guest: all IPv4 frames until there are `bytes` bytes of payload.
fn cross(
    from: &mut Guest,
    to: &mut Guest,
    packet: &Outgoing<'_>,
    headers: usize,
    bytes: usize,
) -> Vec<Incoming> {
    assert!(from.front.send(packet));
    from.front.kick();
    let until = Instant::now() + PATIENCE;
    let mut arrived: Vec<Incoming> = Vec::new();
    let payload = |arrived: &[Incoming]| -> usize {
        arrived.iter().map(|one| one.bytes.len() - headers).sum()
    };
    while payload(&arrived) < bytes {
        assert!(Instant::now() < until, "{} frames", arrived.len());
        let _ = to.front.wait_rx(Duration::from_millis(100));
        let ipv4 = |one: &Incoming| one.bytes[12..14] == [8, 0];
        arrived.extend(to.front.receive().into_iter().filter(ipv4));
    }
    let answers = from.front.responses();
    let good = |status: i16| matches!(status, NETIF_RSP_OKAY | NETIF_RSP_NULL);
    assert!(
        answers.iter().all(|answer| good(answer.status)),
        "{answers:?}"
    );
    arrived
}

/// The frame as the router passes it on: other Ethernet addresses, one hop less. Everything else must be the same.
fn routed(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    frame[22] -= 1;
    frame[24] = frame[24].wrapping_add(1);
    frame
}

#[test]
fn a_blank_checksum_is_completed_or_passed_on() {
    in_netns(|| {
        let blind = FrontOptions {
            csum_v4: false,
            ..FrontOptions::default()
        };
        for (options, stays_blank) in [(FrontOptions::default(), true), (blind, false)] {
            let (mut left, mut right) = two_guests(&options);
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let mut shape = Shape::tcp(IpVersion::V4, (0..=255).collect());
                shape.protocol = protocol;
                let frame = shape.build(true);
                let packet = Outgoing {
                    bytes: &frame,
                    csum_blank: true,
                    data_validated: true,
                    ..Outgoing::default()
                };
                let headers = frame.len() - 256;
                let arrived = cross(&mut left, &mut right, &packet, headers, 256);
                assert_eq!(arrived.len(), 1);
                let blank = arrived[0].flags & NETRXF_csum_blank != 0;
                assert_eq!(blank, stays_blank);
                let mut bytes = arrived[0].bytes.clone();
                bytes[6..12].copy_from_slice(&frame[6..12]);
                let expected = routed(shape.build(blank));
                assert_eq!(bytes[26..], expected[26..]);
                if !blank {
                    assert_eq!(transport_sum(&shape, &arrived[0].bytes), 0xffff);
                }
            }
        }
    });
}

#[test]
fn a_large_packet_crosses_whole_or_in_segments() {
    in_netns(|| {
        let small = FrontOptions {
            gso_v4: false,
            ..FrontOptions::default()
        };
        for (options, whole) in [(FrontOptions::default(), true), (small, false)] {
            let (mut left, mut right) = two_guests(&options);
            let payload: Vec<u8> = (0..60_000_u32).map(|n| (n / 7).to_le_bytes()[0]).collect();
            let shape = Shape::tcp(IpVersion::V4, payload.clone());
            let frame = shape.build(true);
            let packet = Outgoing {
                bytes: &frame,
                csum_blank: true,
                gso: Some((XEN_NETIF_GSO_TYPE_TCPV4, 1400)),
                ..Outgoing::default()
            };
            let arrived = cross(&mut left, &mut right, &packet, 54, payload.len());
            if whole {
                assert_eq!(arrived.len(), 1);
                assert_eq!(arrived[0].gso, Some((XEN_NETIF_GSO_TYPE_TCPV4, 1400)));
            } else {
                assert_eq!(arrived.len(), payload.len().div_ceil(1400));
                assert!(arrived.iter().all(|one| one.gso.is_none()));
            }
            let got: Vec<u8> = arrived
                .iter()
                .flat_map(|one| one.bytes[54..].to_vec())
                .collect();
            assert!(got == payload, "the payload is as it was sent");
            for one in &arrived {
                let shape = Shape::tcp(IpVersion::V4, Vec::new());
                if one.flags & NETRXF_csum_blank == 0 {
                    assert_eq!(transport_sum(&shape, &one.bytes), 0xffff);
                }
            }
        }
    });
}

#[test]
fn a_tap_in_use_is_said_to_be_in_use() {
    in_netns(|| {
        let held = Tap::create("held0").unwrap();
        assert_eq!(held.name(), "held0");
        let second = Tap::open("held0");
        assert!(matches!(second, Err(TapError::Busy { .. })), "{second:?}");
    });
}
