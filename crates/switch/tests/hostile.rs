//! Frames as no honest guest sends them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use cantle_netport::{Checksum, Frame, Gso, GsoKind, NetDevice, NetPort, Offload, Part};
use cantle_switch::test_utils::{Collector, Owned, any_frames, send};
use cantle_switch::{
    DropReason, IpPrefix, MacAddr, PortOptions, SpoofFilter, Switch, SwitchOptions, SwitchPort,
    VlanId, VlanSet, Vlans,
};
use proptest::prelude::*;

const ALICE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const BOB: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const PAYLOAD: [u8; 48] = {
    let mut payload = [0; 48];
    (payload[0], payload[1]) = (0x88, 0xb5);
    payload
};

struct Guest {
    port: SwitchPort,
    queue: Box<dyn NetPort>,
    sink: Arc<Collector>,
}

impl Guest {
    fn new(switch: &Arc<Switch>, options: PortOptions) -> Self {
        let port = switch.add_port(options).unwrap();
        let sink = Arc::new(Collector::default());
        port.set_sink(Some(sink.clone()));
        Self {
            queue: port.open_queue().unwrap(),
            port,
            sink,
        }
    }

    fn in_vlans(switch: &Arc<Switch>, vlans: Vlans) -> Self {
        Self::new(
            switch,
            PortOptions {
                vlans,
                ..PortOptions::default()
            },
        )
    }

    fn send(&mut self, frame: &Owned) -> bool {
        send(&mut *self.queue, std::slice::from_ref(frame), 256)[0]
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.port.counters().dropped(reason)
    }
}

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

fn trunk(allowed: &[u16], native: Option<u16>) -> Vlans {
    Vlans::Trunk {
        allowed: allowed.iter().map(|number| vlan(*number)).collect(),
        native: native.map(vlan),
    }
}

fn pair() -> (Arc<Switch>, Guest, Guest) {
    let switch = Switch::new(SwitchOptions::default());
    let alice = Guest::new(&switch, PortOptions::default());
    let bob = Guest::new(&switch, PortOptions::default());
    (switch, alice, bob)
}

#[test]
fn frames_too_short_are_dropped() {
    let (switch, mut alice, bob) = pair();
    let whole = Owned::new(BOB, ALICE, &[0], &PAYLOAD);
    for len in 0..18 {
        let bytes = whole.bytes[..len].to_vec();
        assert!(
            !alice.send(&Owned {
                bytes,
                ..Owned::default()
            }),
            "{len}"
        );
    }
    assert_eq!(alice.dropped(DropReason::Malformed), 18);
    // No parts at all, and a first part that is short of the header.
    let (head, rest) = whole.bytes.split_at(10);
    let two = [Part::from(head), Part::from(rest)];
    for parts in [&[][..], &two] {
        let len = whole.bytes.len();
        let mut frames = [Frame {
            parts,
            len,
            offload: Offload::default(),
            taken: true,
        }];
        alice.queue.send(&mut frames);
        assert!(!frames[0].taken);
    }
    assert_eq!(
        (bob.sink.take(), switch.addresses()),
        (Vec::new(), Vec::new())
    );
}

#[test]
fn metadata_past_the_frame_is_dropped() {
    let (_switch, mut alice, bob) = pair();
    let gso = |size, header_len| Gso {
        kind: GsoKind::TcpV6,
        size,
        header_len,
        ecn: true,
    };
    let frame = Owned::new(BOB, ALICE, &[], &PAYLOAD);
    let len = u16::try_from(frame.bytes.len()).unwrap();
    let bad = [
        Offload {
            checksum: Checksum::Blank {
                start: len - 2,
                offset: 1,
            },
            gso: None,
        },
        Offload {
            checksum: Checksum::Blank {
                start: u16::MAX,
                offset: u16::MAX,
            },
            gso: None,
        },
        Offload {
            checksum: Checksum::Present,
            gso: Some(gso(0, 0)),
        },
        Offload {
            checksum: Checksum::Present,
            gso: Some(gso(1, len + 1)),
        },
    ];
    for offload in bad {
        assert!(
            !alice.send(&Owned {
                offload,
                ..frame.clone()
            }),
            "{offload:?}"
        );
    }
    let most = Offload {
        checksum: Checksum::Blank {
            start: len - 2,
            offset: 0,
        },
        gso: Some(gso(1, len)),
    };
    assert!(alice.send(&Owned {
        offload: most,
        ..frame
    }));
    assert_eq!(bob.sink.take()[0].offload, most);
}

#[test]
fn nobody_reaches_another_vlan_by_a_tag_within_a_tag() {
    let switch = Switch::new(SwitchOptions::default());
    let mut attacker = Guest::in_vlans(&switch, Vlans::Access(vlan(1)));
    let mut carrier = Guest::in_vlans(&switch, trunk(&[1, 20], None));
    let uplink = Guest::in_vlans(&switch, trunk(&[20], Some(1)));
    let victim = Guest::in_vlans(&switch, Vlans::Access(vlan(20)));
    let everybody = MacAddr::BROADCAST;
    // The native VLAN's tag, or a priority, would be taken off at the uplink, and leave a tag for 20.
    for tags in [
        &[1, 20][..],
        &[0, 20],
        &[20],
        &[0xe000, 20],
        &[0xe000, 0],
        &[4095],
    ] {
        assert!(
            !attacker.send(&Owned::new(everybody, ALICE, tags, &PAYLOAD)),
            "{tags:?}"
        );
    }
    for kind in [0x88a8_u16, 0x9100] {
        let mut frame = Owned::new(everybody, ALICE, &[20], &PAYLOAD);
        frame.bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        assert!(!attacker.send(&frame), "{kind:#x}");
    }
    assert_eq!(attacker.dropped(DropReason::Vlan), 8);
    // A trunk may send tags within tags; where the outer one has to go, they do not.
    carrier.send(&Owned::new(everybody, BOB, &[1, 20], &PAYLOAD));
    assert_eq!(uplink.dropped(DropReason::EgressTag), 1);
    assert_eq!(attacker.dropped(DropReason::EgressTag), 1);
    for guest in [&attacker, &uplink, &victim] {
        assert_eq!(guest.sink.take(), []);
    }
}

#[test]
fn three_tags_go_from_trunk_to_trunk_only() {
    let switch = Switch::new(SwitchOptions::default());
    let all = || Vlans::Trunk {
        allowed: VlanSet::all(),
        native: None,
    };
    let mut from = Guest::in_vlans(&switch, all());
    let to = Guest::in_vlans(&switch, all());
    let access = Guest::in_vlans(&switch, Vlans::Access(vlan(5)));
    let frame = Owned::new(MacAddr::BROADCAST, ALICE, &[5, 6, 7], &PAYLOAD);
    assert!(from.send(&frame));
    assert_eq!((to.sink.take(), access.sink.take()), (vec![frame], vec![]));
}

#[test]
fn an_address_taken_by_force_is_a_static_one_at_no_time() {
    let (switch, mut alice, mut bob) = pair();
    let mut mallory = Guest::new(&switch, PortOptions::default());
    switch
        .add_static(VlanId::DEFAULT, BOB, bob.port.id())
        .unwrap();
    assert!(!mallory.send(&Owned::new(ALICE, BOB, &[], &PAYLOAD)));
    assert_eq!(mallory.dropped(DropReason::StaticElsewhere), 1);
    // Also for one that is not learned from.
    mallory
        .port
        .set_options(PortOptions {
            learn: false,
            ..PortOptions::default()
        })
        .unwrap();
    assert!(!mallory.send(&Owned::new(ALICE, BOB, &[], &PAYLOAD)));
    assert!(bob.send(&Owned::new(ALICE, BOB, &[], &PAYLOAD)));
    let _ = mallory.sink.take();
    assert!(alice.send(&Owned::new(BOB, ALICE, &[], &PAYLOAD)));
    assert_eq!((bob.sink.take().len(), mallory.sink.take().len()), (1, 0));
}

#[test]
fn filters_look_at_what_can_no_longer_change() {
    let (_switch, mut alice, bob) = pair();
    let filter = SpoofFilter {
        macs: Some(vec![ALICE]),
        addresses: Some(vec!["192.0.2.1".parse::<IpPrefix>().unwrap()]),
    };
    alice
        .port
        .set_options(PortOptions {
            filter: Some(filter),
            ..PortOptions::default()
        })
        .unwrap();
    let mut packet = vec![
        8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9,
    ];
    packet.resize(42, 0);
    let good = Owned::new(MacAddr::BROADCAST, ALICE, &[], &packet);
    for first in 0..good.bytes.len() {
        let taken = send(&mut *alice.queue, std::slice::from_ref(&good), first)[0];
        // The source address and what is before it is in the first part, or the frame is dropped.
        assert_eq!(taken, first >= 34, "{first}");
    }
    let _ = bob.sink.take();
    let mut bad = good;
    bad.bytes[29] = 2;
    assert!(!alice.send(&bad));
    bad.bytes[29] = 1;
    bad.bytes[11] = 9;
    assert!(!alice.send(&bad));
    assert_eq!(bob.sink.take(), []);
}

#[test]
fn a_flood_of_addresses_leaves_the_others_known() {
    let (switch, mut alice, mut bob) = pair();
    bob.send(&Owned::new(ALICE, BOB, &[], &PAYLOAD));
    let frames: Vec<Owned> = (0..20_000_u32)
        .map(|n| {
            let [a, b, c, d] = n.to_be_bytes();
            Owned::new(BOB, MacAddr([6, 0, a, b, c, d]), &[], &PAYLOAD)
        })
        .collect();
    let _ = send(&mut *alice.queue, &frames, 256);
    assert_eq!(switch.addresses().len(), 1025);
    assert!(
        switch
            .addresses()
            .iter()
            .any(|known| known.mac == BOB && known.port == bob.port.id())
    );
    assert_eq!(alice.port.counters().unlearned, 20_000 - 1024);
    assert_eq!(bob.sink.take().len(), 20_000);
}

#[test]
fn a_frame_of_segmentation_crosses_whole_and_where_it_lies() {
    let (_switch, mut alice, mut bob) = pair();
    bob.send(&Owned::new(ALICE, BOB, &[], &PAYLOAD));
    let offload = Offload {
        checksum: Checksum::Blank {
            start: 34,
            offset: 16,
        },
        gso: Some(Gso {
            kind: GsoKind::TcpV4,
            size: 1448,
            header_len: 54,
            ecn: false,
        }),
    };
    let mut frame = Owned::new(BOB, ALICE, &[], &PAYLOAD);
    frame.bytes.resize(65_549, 0x5a);
    frame.offload = offload;
    let batches = bob.sink.batches();
    let all = vec![frame; 100];
    assert!(send(&mut *alice.queue, &all, 66).iter().all(|taken| *taken));
    assert_eq!(bob.sink.take(), all);
    assert_eq!(bob.sink.batches() - batches, 2, "64 frames at a time");
}

#[test]
fn frames_are_grouped_by_where_they_go() {
    let (switch, mut alice, mut bob) = pair();
    let mut carol = Guest::new(&switch, PortOptions::default());
    let other = MacAddr([2, 0, 0, 0, 0, 3]);
    bob.send(&Owned::new(MacAddr::BROADCAST, BOB, &[], &PAYLOAD));
    carol.send(&Owned::new(MacAddr::BROADCAST, other, &[], &PAYLOAD));
    let _ = (bob.sink.take(), carol.sink.take());
    let before = (bob.sink.batches(), carol.sink.batches());
    let frame = |to, n: u8| Owned::new(to, ALICE, &[], &[0x88, 0xb5, n]);
    let batch: Vec<Owned> = (0..60)
        .map(|n| frame(if n % 3 == 0 { BOB } else { other }, n))
        .collect();
    assert!(
        send(&mut *alice.queue, &batch, 256)
            .iter()
            .all(|taken| *taken)
    );
    assert_eq!(
        (
            bob.sink.batches() - before.0,
            carol.sink.batches() - before.1
        ),
        (1, 1)
    );
    let to = |mac: MacAddr| {
        batch
            .iter()
            .filter(|frame| frame.bytes[..6] == mac.0)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!((bob.sink.take(), carol.sink.take()), (to(BOB), to(other)));
}

/// An IPv4 packet of the filtered port's own address.
fn packet() -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9,
    ];
    packet.resize(40, 0);
    packet
}

proptest! {
    #[test]
    fn any_frames_are_survived(
        frames in proptest::collection::vec((
            any::<[u8; 5]>(),
            prop_oneof![Just(vec![]), Just(vec![0x81, 0, 0, 1]), Just(vec![0x81, 0, 0x60, 0]),
                Just(vec![0x81, 0, 0, 3]), Just(vec![0x81, 0, 0, 1, 0x81, 0, 0, 2]), Just(vec![0x88, 0xa8, 0, 2])],
            prop_oneof![2 => Just([8, 0]), 1 => Just([8, 6]), 1 => Just([0x86, 0xdd]), 1 => any::<[u8; 2]>()],
            prop_oneof![proptest::collection::vec(any::<u8>(), 0..120), Just(packet())], 0_u8..4, 0_u8..4,
        ), 1..20),
    ) {
        let mut input = Vec::new();
        for (head, tags, kind, payload, to, from) in frames {
            let mut bytes = vec![if to == 0 { 0xff } else { 2 }, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from];
            bytes.extend(tags);
            bytes.extend(kind);
            bytes.extend(payload);
            let [who, _, kind, place, first] = head;
            input.extend([who, u8::try_from(bytes.len()).unwrap(), kind, place, first]);
            input.extend(bytes);
        }
        any_frames(&input);
        any_frames(&input[1..]);
    }
}
