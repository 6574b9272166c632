use super::*;
use crate::headers::IpVersion;
use crate::test_utils::{Shape, transport_sum};
use crate::{Gso, GsoKind, Part};
use proptest::prelude::*;

#[test]
fn a_frame_that_lies_of_its_length_is_not_gathered() {
    let bytes = [1; 100];
    let parts = [Part::from(&bytes[..40]), Part::from(&bytes[40..])];
    let mut to = vec![9];
    for (len, right) in [(99, false), (101, false), (100, true)] {
        let frame = Frame {
            parts: &parts,
            len,
            offload: Offload::default(),
            taken: false,
        };
        assert_eq!(gather(&frame, &mut to), right, "{len}");
        assert_eq!(to.len(), if right { 101 } else { 1 });
    }
    let big = vec![0; FRAME_MAX + 1];
    let parts = [Part::from(&big[..])];
    let frame = Frame {
        parts: &parts,
        len: big.len(),
        offload: Offload::default(),
        taken: false,
    };
    assert!(!gather(&frame, &mut to));
}

#[test]
fn scattering_says_when_there_was_no_room() {
    let (mut a, mut b) = ([0; 3], [0; 4]);
    let mut into = [PartMut::from(&mut a[..]), PartMut::from(&mut b[..])];
    assert!(scatter(b"abcdefg", &mut into));
    assert!(!scatter(b"abcdefgh", &mut into));
    assert_eq!((&a, &b), (b"abc", b"defg"));
}

proptest! {
    /// Whatever the receiver takes: it gets what it takes, the payload is whole, and no sum is missing.
    #[test]
    fn a_receiver_gets_what_it_takes(
        v6: bool,
        vlans in 0..3_usize,
        payload in proptest::collection::vec(any::<u8>(), 1..5000),
        size in 8_u16..2000,
        large: bool,
        checksum: bool,
        tso_v4: bool,
        tso_v6: bool,
    ) {
        let accepted = Offloads { checksum, tso_v4, tso_v6 };
        let version = if v6 { IpVersion::V6 } else { IpVersion::V4 };
        let kind = if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
        let shape = Shape { vlans, ..Shape::tcp(version, payload.clone()) };
        let start = u16::try_from(shape.start()).unwrap();
        let offload = Offload {
            checksum: Checksum::Blank { start, offset: 16 },
            gso: large.then_some(Gso { kind, size, header_len: 0, ecn: false }),
        };
        let mut pending = Pending::default();
        prop_assert!(pending.push(&mut shape.build(true), &offload, accepted));
        let mut back: Vec<u8> = Vec::new();
        while let Some((bytes, offload)) = pending.pop() {
            prop_assert!(accepted.takes(&offload));
            let headers = shape.start() + 20;
            back.extend(&bytes[headers..]);
            if offload.checksum == Checksum::Present {
                prop_assert_eq!(transport_sum(&shape, bytes), 0xffff);
            }
            let one = if v6 { tso_v6 } else { tso_v4 };
            if large && !one {
                prop_assert!(bytes.len() - headers <= usize::from(size));
            }
        }
        prop_assert_eq!(back, payload);
    }

    #[test]
    fn any_frame_is_survived(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200),
        start: u16,
        offset: u16,
        size: u16,
        large: bool,
    ) {
        let kind = GsoKind::TcpV4;
        let offload = Offload {
            checksum: Checksum::Blank { start, offset },
            gso: large.then_some(Gso { kind, size, header_len: 0, ecn: false }),
        };
        let mut pending = Pending::default();
        let taken = pending.push(&mut frame, &offload, Offloads::NONE);
        prop_assert_eq!(pending.pop().is_some(), taken);
    }
}
