use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const MAC: MacAddr = MacAddr([0x00, 0x16, 0x3e, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([0x00, 0x16, 0x3e, 0, 0, 2]);
const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";
const STRANGER: &str = "2001:db8::2";

fn locked() -> SpoofFilter {
    SpoofFilter {
        macs: Some(vec![MAC]),
        addresses: Some(vec![V4.parse().unwrap(), V6.parse().unwrap()]),
    }
}

fn mac_only() -> SpoofFilter {
    SpoofFilter {
        addresses: None,
        ..locked()
    }
}

fn ethernet(source: MacAddr, tags: &[u16], kind: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [MacAddr::BROADCAST.0, source.0].concat();
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

fn v4(source: &str, destination: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    for address in [source, destination] {
        packet.extend(address.parse::<Ipv4Addr>().unwrap().octets());
    }
    packet.extend(payload);
    packet
}

fn v6(source: &str, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, hops]);
    for address in [source, "ff02::1"] {
        packet.extend(address.parse::<Ipv6Addr>().unwrap().octets());
    }
    packet.extend(payload);
    packet
}

/// Neighbour solicitation (135) or advertisement (136), with a link-layer address where one is given.
fn nd(kind: u8, target: &str, link: Option<MacAddr>) -> Vec<u8> {
    let mut icmp = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(target.parse::<Ipv6Addr>().unwrap().octets());
    if let Some(link) = link {
        icmp.extend([kind - 134, 1]);
        icmp.extend(link.0);
    }
    icmp
}

fn arp(operation: u16, mac: MacAddr, sender: &str, target: &str) -> Vec<u8> {
    let mut packet = ARP_ETHERNET_IPV4.to_vec();
    packet.extend(operation.to_be_bytes());
    packet.extend(mac.0);
    packet.extend(sender.parse::<Ipv4Addr>().unwrap().octets());
    packet.extend([0; 6]);
    packet.extend(target.parse::<Ipv4Addr>().unwrap().octets());
    packet
}

fn admits(filter: &SpoofFilter, frame: &[u8]) -> bool {
    filter.admits(&frame[..frame.len().min(256)], frame.len())
}

/// Whether the locked port may send that packet.
fn passes(kind: u16, packet: &[u8]) -> bool {
    let plain = admits(&locked(), &ethernet(MAC, &[], kind, packet));
    for tags in [&[0x8100][..], &[0x88a8, 0x8100]] {
        assert_eq!(
            plain,
            admits(&locked(), &ethernet(MAC, tags, kind, packet)),
            "{tags:x?}"
        );
    }
    // With another's Ethernet source, nothing passes.
    assert!(!admits(&locked(), &ethernet(OTHER, &[], kind, packet)));
    plain
}

#[test]
fn only_the_own_ipv4_address_sends() {
    assert!(passes(ETH_P_IP, &v4(V4, "8.8.8.8", 6, 0, &[0; 20])));
    assert!(passes(ETH_P_IP, &v4(V4, "8.8.8.8", 6, 0x2001, &[0; 20])));
    assert!(!passes(
        ETH_P_IP,
        &v4("192.0.2.2", "8.8.8.8", 6, 0, &[0; 20])
    ));
    assert!(!passes(ETH_P_IP, &v4("0.0.0.0", "8.8.8.8", 6, 0, &[0; 20])));
    assert!(admits(
        &mac_only(),
        &ethernet(MAC, &[], ETH_P_IP, &v4("1.2.3.4", "8.8.8.8", 6, 0, &[]))
    ));
}

#[test]
fn dhcp_requests_come_from_nowhere() {
    let discover = [0, 68, 0, 67, 0, 8, 0, 0];
    let everybody = "255.255.255.255";
    assert!(passes(
        ETH_P_IP,
        &v4("0.0.0.0", everybody, 17, 0, &discover)
    ));
    assert!(!passes(
        ETH_P_IP,
        &v4("0.0.0.0", "192.0.2.9", 17, 0, &discover)
    ));
    assert!(!passes(
        ETH_P_IP,
        &v4("0.0.0.0", everybody, 6, 0, &discover)
    ));
    assert!(!passes(
        ETH_P_IP,
        &v4("0.0.0.0", everybody, 17, 0x2000, &discover)
    ));
    // A server's answer is none.
    assert!(!passes(
        ETH_P_IP,
        &v4("0.0.0.0", everybody, 17, 0, &[0, 67, 0, 68, 0, 8, 0, 0])
    ));
}

#[test]
fn ipv4_that_is_none_is_dropped() {
    let good = v4(V4, "8.8.8.8", 6, 0, &[0; 20]);
    for (at, bad) in [(0, 0x65), (0, 0x44), (0, 0x4f), (2, 0xff), (3, 19)] {
        let mut packet = good.clone();
        packet[at] = bad;
        assert_eq!(
            passes(ETH_P_IP, &packet),
            (at, bad) == (0, 0x4f) && packet.len() >= 60,
            "{at} {bad:#x}"
        );
    }
}

#[test]
fn arp_says_the_own_addresses() {
    assert!(passes(ETH_P_ARP, &arp(1, MAC, V4, "192.0.2.9")));
    assert!(passes(ETH_P_ARP, &arp(2, MAC, V4, "192.0.2.9")));
    assert!(
        !passes(ETH_P_ARP, &arp(2, MAC, "192.0.2.9", V4)),
        "another's address"
    );
    assert!(
        !passes(ETH_P_ARP, &arp(2, OTHER, V4, "192.0.2.9")),
        "another's link address"
    );
    assert!(passes(ETH_P_ARP, &arp(1, MAC, "0.0.0.0", V4)), "a probe");
    assert!(
        !passes(ETH_P_ARP, &arp(1, MAC, "0.0.0.0", "192.0.2.9")),
        "a probe against another"
    );
    assert!(!passes(ETH_P_ARP, &arp(2, MAC, "0.0.0.0", V4)));
    assert!(!passes(ETH_P_ARP, &arp(3, MAC, V4, V4)));
    let mut strange = arp(1, MAC, V4, V4);
    strange[4] = 8;
    assert!(!passes(ETH_P_ARP, &strange));
    assert!(!admits(
        &mac_only(),
        &ethernet(MAC, &[], ETH_P_ARP, &arp(2, OTHER, "1.2.3.4", V4))
    ));
    assert!(admits(
        &mac_only(),
        &ethernet(MAC, &[], ETH_P_ARP, &arp(2, MAC, "1.2.3.4", V4))
    ));
}

#[test]
fn only_the_own_ipv6_addresses_send() {
    assert!(passes(ETH_P_IPV6, &v6(V6, 6, 64, &[0; 20])));
    assert!(passes(
        ETH_P_IPV6,
        &v6("fe80::216:3eff:fe00:1", 6, 64, &[0; 20])
    ));
    for source in [STRANGER, "fe80::216:3eff:fe00:2", "::", "::ffff:192.0.2.1"] {
        assert!(
            !passes(ETH_P_IPV6, &v6(source, 6, 64, &[0; 20])),
            "{source}"
        );
        assert!(
            !passes(ETH_P_IPV6, &v6(source, 58, 64, &[128, 0, 0, 0])),
            "{source}"
        );
    }
}

#[test]
fn neighbour_discovery_says_the_own_addresses() {
    let own = "fe80::216:3eff:fe00:1";
    for target in [V6, own] {
        assert!(passes(
            ETH_P_IPV6,
            &v6(V6, 58, 255, &nd(136, target, Some(MAC)))
        ));
        assert!(
            passes(ETH_P_IPV6, &v6("::", 58, 255, &nd(135, target, None))),
            "detection"
        );
    }
    assert!(passes(
        ETH_P_IPV6,
        &v6(V6, 58, 255, &nd(135, STRANGER, Some(MAC)))
    ));
    let no = [
        (V6, 255, nd(136, STRANGER, Some(MAC))),
        (V6, 255, nd(136, STRANGER, None)),
        (V6, 255, nd(136, V6, Some(OTHER))),
        (V6, 255, nd(135, STRANGER, Some(OTHER))),
        (V6, 64, nd(136, V6, Some(MAC))),
        ("::", 255, nd(135, STRANGER, None)),
        ("::", 255, nd(135, V6, Some(MAC))),
        ("::", 255, nd(136, V6, None)),
    ];
    for (source, hops, icmp) in no {
        assert!(
            !passes(ETH_P_IPV6, &v6(source, 58, hops, &icmp)),
            "{source} {icmp:?}"
        );
    }
    // Where any address may be sent from, link-layer ones are still checked.
    let lie = ethernet(
        MAC,
        &[],
        ETH_P_IPV6,
        &v6(STRANGER, 58, 255, &nd(136, STRANGER, Some(OTHER))),
    );
    assert!(!admits(&mac_only(), &lie));
    let truth = ethernet(
        MAC,
        &[],
        ETH_P_IPV6,
        &v6(STRANGER, 58, 255, &nd(136, STRANGER, Some(MAC))),
    );
    assert!(admits(&mac_only(), &truth));
}

#[test]
fn options_that_do_not_add_up_are_dropped() {
    let base = nd(135, STRANGER, Some(MAC));
    let with = |more: &[u8]| [&base[..], more].concat();
    assert!(passes(
        ETH_P_IPV6,
        &v6(V6, 58, 255, &with(&[14, 1, 0, 0, 0, 0, 0, 0]))
    ));
    for more in [
        &[14, 0, 0, 0, 0, 0, 0, 0][..],
        &[14, 2, 0, 0, 0, 0, 0, 0],
        &[14],
        &[1, 2, 0, 0, 0, 0, 0, 0],
    ] {
        assert!(
            !passes(ETH_P_IPV6, &v6(V6, 58, 255, &with(more))),
            "{more:?}"
        );
    }
    // A second address, behind the own one.
    let mut second = vec![1, 1];
    second.extend(OTHER.0);
    assert!(!passes(ETH_P_IPV6, &v6(V6, 58, 255, &with(&second))));
    // It is dropped as well where it lies past what can be looked at.
    let far = [vec![14, 31], vec![0; 246], second].concat();
    assert!(!passes(ETH_P_IPV6, &v6(V6, 58, 255, &with(&far))));
}

#[test]
fn routers_are_not_played() {
    let advertisement = [vec![134, 0, 0, 0], vec![0; 12]].concat();
    let redirect = [vec![137, 0, 0, 0], vec![0; 36]].concat();
    for icmp in [advertisement, redirect] {
        assert!(!passes(ETH_P_IPV6, &v6(V6, 58, 255, &icmp)));
        assert!(admits(
            &mac_only(),
            &ethernet(MAC, &[], ETH_P_IPV6, &v6(V6, 58, 255, &icmp))
        ));
    }
    let solicitation = [133, 0, 0, 0, 0, 0, 0, 0];
    assert!(passes(ETH_P_IPV6, &v6("::", 58, 255, &solicitation)));
    // RFC 3810: multicast reports before there is an address.
    assert!(passes(
        ETH_P_IPV6,
        &v6("::", 0, 1, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0])
    ));
    assert!(!passes(
        ETH_P_IPV6,
        &v6("::", 0, 2, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0])
    ));
}

#[test]
fn discovery_does_not_hide_behind_extension_headers() {
    let lie = nd(136, STRANGER, Some(MAC));
    let truth = nd(136, V6, Some(MAC));
    for kind in [0, 43, 60, 135, 139, 140] {
        let behind = |icmp: &[u8]| {
            let chain = [
                &[kind, 0, 0, 0, 0, 0, 0, 0, 58, 1, 0, 0, 0, 0, 0, 0],
                &[0; 8][..],
                icmp,
            ]
            .concat();
            v6(V6, kind, 255, &chain)
        };
        assert!(passes(ETH_P_IPV6, &behind(&truth)), "{kind}");
        assert!(!passes(ETH_P_IPV6, &behind(&lie)), "{kind}");
    }
    let authentication = |icmp: &[u8]| v6(V6, 51, 255, &[&[58, 1][..], &[0; 10], icmp].concat());
    assert!(passes(ETH_P_IPV6, &authentication(&truth)));
    assert!(!passes(ETH_P_IPV6, &authentication(&lie)));
    // More headers than anybody has.
    let many = [[60, 0, 0, 0, 0, 0, 0, 0].repeat(20), truth].concat();
    assert!(!passes(ETH_P_IPV6, &v6(V6, 60, 255, &many)));
}

#[test]
fn discovery_does_not_hide_in_fragments() {
    let fragment = |place: u16, icmp: &[u8]| {
        let header = [&[58, 0][..], &place.to_be_bytes(), &[0, 0, 0, 1]].concat();
        v6(V6, 44, 255, &[&header[..], icmp].concat())
    };
    for place in [0, 1] {
        assert!(
            !passes(ETH_P_IPV6, &fragment(place, &nd(136, V6, Some(MAC)))),
            "{place}"
        );
        assert!(
            passes(ETH_P_IPV6, &fragment(place, &[128, 0, 0, 0])),
            "{place}"
        );
        // RFC 7112: the first one has all headers.
        assert!(!passes(ETH_P_IPV6, &fragment(place, &[])), "{place}");
    }
    assert!(passes(ETH_P_IPV6, &fragment(8, &[136; 8])));
}

#[test]
fn what_is_neither_arp_nor_ip_is_dropped_where_addresses_count() {
    for kind in [0x88b5, 0x8035, 0x8847, 0x8864, 100] {
        assert!(
            !admits(&locked(), &ethernet(MAC, &[], kind, &[0; 46])),
            "{kind:#x}"
        );
        assert!(
            admits(&mac_only(), &ethernet(MAC, &[], kind, &[0; 46])),
            "{kind:#x}"
        );
    }
    // A third tag hides what it is.
    for filter in [locked(), mac_only()] {
        let packet = v4(V4, "8.8.8.8", 6, 0, &[0; 20]);
        assert!(!admits(
            &filter,
            &ethernet(MAC, &[0x8100; 3], ETH_P_IP, &packet)
        ));
    }
}

#[test]
fn frames_cut_short_are_dropped() {
    let frames = [
        ethernet(MAC, &[0x8100], ETH_P_ARP, &arp(1, MAC, V4, V4)),
        ethernet(
            MAC,
            &[0x8100],
            ETH_P_IP,
            &v4("0.0.0.0", "255.255.255.255", 17, 0, &[0, 68, 0, 67]),
        ),
        ethernet(
            MAC,
            &[],
            ETH_P_IPV6,
            &v6(V6, 58, 255, &nd(136, V6, Some(MAC))),
        ),
    ];
    for frame in frames {
        for len in 0..frame.len() {
            assert!(!admits(&locked(), &frame[..len]), "{len}");
            // Nor where the rest is in the sender's hands.
            assert!(!locked().admits(&frame[..len], frame.len()), "{len}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        kind in prop_oneof![Just(ETH_P_ARP), Just(ETH_P_IP), Just(ETH_P_IPV6), any::<u16>()],
        rest in proptest::collection::vec(any::<u8>(), 0..260), first in any::<u8>(),
    ) {
        let mut frame = ethernet(MAC, &[], kind, &rest);
        if let (Some(version), true) = (frame.get_mut(14), first < 128) {
            *version = if kind == ETH_P_IP { 0x45 } else { 0x60 };
        }
        let _ = admits(&locked(), &frame);
        let _ = mac_only().admits(&frame, usize::MAX);
    }

    /// Whatever else a frame has, a source that is not the port's does not pass.
    #[test]
    fn a_strangers_packet_never_passes(
        next in prop_oneof![Just(0_u8), Just(44), Just(58), Just(60), Just(6), any::<u8>()],
        payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        prop_assert!(!passes(ETH_P_IPV6, &v6(STRANGER, next, 255, &payload)));
        prop_assert!(!passes(ETH_P_IP, &v4("192.0.2.2", "255.255.255.255", next, 0, &payload)));
    }
}
