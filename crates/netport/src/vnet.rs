//! The header that a tap puts before each packet: `struct virtio_net_hdr_v1` (`linux/virtio_net.h`), 12 bytes, little-endian.

use crate::{Checksum, Gso, GsoKind, Offload};

/// The header's length in bytes.
pub const VNET_HDR_LEN: usize = 12;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// Puts a packet's metadata in the header's form.
#[must_use]
pub fn emit(offload: &Offload) -> [u8; VNET_HDR_LEN] {
    let (flags, csum_start, csum_offset) = match offload.checksum {
        Checksum::Present => (0, 0, 0),
        Checksum::Validated => (F_DATA_VALID, 0, 0),
        Checksum::Blank { start, offset } => (F_NEEDS_CSUM, start, offset),
    };
    let (gso_type, hdr_len, gso_size) = offload.gso.map_or((GSO_NONE, 0, 0), |gso| {
        let kind = match gso.kind {
            GsoKind::TcpV4 => GSO_TCPV4,
            GsoKind::TcpV6 => GSO_TCPV6,
        };
        let ecn = if gso.ecn { GSO_ECN } else { 0 };
        (kind | ecn, gso.header_len, gso.size)
    });
    let [h0, h1] = hdr_len.to_le_bytes();
    let [g0, g1] = gso_size.to_le_bytes();
    let [s0, s1] = csum_start.to_le_bytes();
    let [o0, o1] = csum_offset.to_le_bytes();
    [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0]
}

/// Reads the metadata of a header; `None` for a segmentation that we know nothing of, or one into segments of nothing.
#[must_use]
pub fn parse(header: &[u8; VNET_HDR_LEN]) -> Option<Offload> {
    let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = *header;
    let checksum = if flags & F_NEEDS_CSUM != 0 {
        Checksum::Blank {
            start: u16::from_le_bytes([s0, s1]),
            offset: u16::from_le_bytes([o0, o1]),
        }
    } else if flags & F_DATA_VALID != 0 {
        Checksum::Validated
    } else {
        Checksum::Present
    };
    let kind = match gso_type & !GSO_ECN {
        GSO_NONE => None,
        GSO_TCPV4 => Some(GsoKind::TcpV4),
        GSO_TCPV6 => Some(GsoKind::TcpV6),
        _ => return None,
    };
    let gso = kind.map(|kind| Gso {
        kind,
        size: u16::from_le_bytes([g0, g1]),
        header_len: u16::from_le_bytes([h0, h1]),
        ecn: gso_type & GSO_ECN != 0,
    });
    if gso.is_some_and(|gso| gso.size == 0) {
        return None;
    }
    Some(Offload { checksum, gso })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offloads() -> impl Strategy<Value = Offload> {
        let checksum = prop_oneof![
            Just(Checksum::Present),
            Just(Checksum::Validated),
            any::<(u16, u16)>().prop_map(|(start, offset)| Checksum::Blank { start, offset }),
        ];
        let kind = prop_oneof![Just(GsoKind::TcpV4), Just(GsoKind::TcpV6)];
        let gso = (kind, 1..=u16::MAX, any::<u16>(), any::<bool>()).prop_map(
            |(kind, size, header_len, ecn)| Gso {
                kind,
                size,
                header_len,
                ecn,
            },
        );
        (checksum, proptest::option::of(gso)).prop_map(|(checksum, gso)| Offload { checksum, gso })
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_to_the_same(offload in offloads()) {
            prop_assert_eq!(parse(&emit(&offload)), Some(offload));
        }

        #[test]
        fn any_header_is_survived(header: [u8; VNET_HDR_LEN]) {
            if let Some(offload) = parse(&header) {
                prop_assert_eq!(parse(&emit(&offload)), Some(offload));
            }
        }
    }

    #[test]
    fn fields_are_where_linux_has_them() {
        let offload = Offload {
            checksum: Checksum::Blank {
                start: 34,
                offset: 16,
            },
            gso: Some(Gso {
                kind: GsoKind::TcpV4,
                size: 1448,
                header_len: 66,
                ecn: true,
            }),
        };
        assert_eq!(
            emit(&offload),
            [1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]
        );
    }

    #[test]
    fn unknown_or_empty_segmentation_is_refused() {
        assert_eq!(parse(&[0, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]), None, "UDP");
        assert_eq!(parse(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "size 0");
    }
}
