use super::*;
use proptest::prelude::*;

fn ethernet(kind: u16, tags: &[u16]) -> Vec<u8> {
    let mut frame = vec![0x22; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 5]);
    }
    frame.extend(kind.to_be_bytes());
    frame
}

fn ipv4(options: u8, protocol: u8, fragment: u16) -> Vec<u8> {
    let mut header = vec![0; 20 + usize::from(options) * 4];
    header[0] = 0x45 + options;
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = protocol;
    header
}

fn ipv6(next: u8) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[6] = next;
    header
}

fn tcp(options: u8, flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20 + usize::from(options) * 4];
    header[12] = (5 + options) << 4;
    header[13] = flags;
    header
}

fn frame(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn tcp_over_ipv4_with_options_is_found() {
    let frame = frame(&[ethernet(ETH_P_IP, &[]), ipv4(3, 6, 0x4000), tcp(2, 0x80)]);
    let found = transport(&frame).unwrap();
    assert_eq!((found.ip, found.start, found.payload), (14, 46, 74));
    assert_eq!(found.version, IpVersion::V4);
    assert_eq!(found.protocol, Protocol::Tcp);
    assert!(found.cwr);
    assert_eq!(found.checksum_offset(), 16);
}

#[test]
fn udp_behind_two_vlan_tags_is_found() {
    let tags = [ETH_P_8021AD, ETH_P_8021Q];
    let frame = frame(&[ethernet(ETH_P_IP, &tags), ipv4(0, 17, 0), vec![0; 8]]);
    let found = transport(&frame).unwrap();
    assert_eq!((found.start, found.payload), (42, 50));
    assert_eq!(found.checksum_offset(), 6);
    assert_eq!(ip_version(&frame), Some(IpVersion::V4));
}

#[test]
fn extension_headers_of_ipv6_are_passed_over() {
    let hop = vec![60, 0, 0, 0, 0, 0, 0, 0];
    let mut options = vec![51, 1];
    options.resize(16, 0);
    let mut authentication = vec![44, 4];
    authentication.resize(24, 0);
    let atomic_fragment = vec![6, 0, 0, 0, 1, 2, 3, 4];
    let frame = frame(&[
        ethernet(ETH_P_IPV6, &[]),
        ipv6(0),
        hop,
        options,
        authentication,
        atomic_fragment,
        tcp(0, 0x10),
    ]);
    let found = transport(&frame).unwrap();
    assert_eq!(
        (found.version, found.start),
        (IpVersion::V6, 54 + 8 + 16 + 24 + 8)
    );
    assert!(!found.cwr);
}

#[test]
fn fragments_and_other_protocols_have_no_transport() {
    for (protocol, fragment) in [(6, 0x2000), (6, 1), (1, 0), (132, 0)] {
        let frame = frame(&[
            ethernet(ETH_P_IP, &[]),
            ipv4(0, protocol, fragment),
            tcp(0, 0),
        ]);
        assert_eq!(
            transport(&frame),
            Err(NoTransport),
            "{protocol} {fragment:#x}"
        );
    }
    let arp = frame(&[ethernet(0x0806, &[]), vec![0; 46]]);
    assert_eq!(transport(&arp), Err(NoTransport));
    assert_eq!(ip_version(&arp), None);
}

#[test]
fn endless_extension_headers_end() {
    // Each says that the next is again a hop-by-hop header.
    let frame = frame(&[ethernet(ETH_P_IPV6, &[]), ipv6(0), vec![0; 4096]]);
    assert_eq!(transport(&frame), Err(NoTransport));
}

#[test]
fn every_frame_cut_short_is_refused() {
    let whole = frame(&[ethernet(ETH_P_IPV6, &[ETH_P_8021Q]), ipv6(6), tcp(4, 0)]);
    let found = transport(&whole).unwrap();
    assert_eq!(usize::from(found.payload), whole.len());
    for len in 0..whole.len() {
        assert_eq!(transport(&whole[..len]), Err(NoTransport), "{len}");
    }
}

#[test]
fn impossible_header_lengths_are_refused() {
    let mut short_ip = frame(&[ethernet(ETH_P_IP, &[]), ipv4(0, 6, 0), tcp(0, 0)]);
    short_ip[14] = 0x44;
    assert_eq!(transport(&short_ip), Err(NoTransport));
    let mut short_tcp = frame(&[ethernet(ETH_P_IP, &[]), ipv4(0, 6, 0), tcp(0, 0)]);
    short_tcp[14 + 20 + 12] = 0x40;
    assert_eq!(transport(&short_tcp), Err(NoTransport));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        kind in prop_oneof![Just(ETH_P_IP), Just(ETH_P_IPV6), Just(ETH_P_8021Q), any::<u16>()],
        rest in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let frame = frame(&[ethernet(kind, &[]), rest]);
        if let Ok(found) = transport(&frame) {
            prop_assert!(found.ip < found.start && found.start < found.payload);
            prop_assert!(usize::from(found.payload) <= frame.len().min(HEADERS_MAX));
            prop_assert!(found.start + found.checksum_offset() + 2 <= found.payload);
        }
    }
}
