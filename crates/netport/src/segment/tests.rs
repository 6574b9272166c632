use super::*;
use crate::Gso;
use crate::test_utils::{Shape, checksum_of, transport_sum};
use proptest::prelude::*;

fn offload(kind: GsoKind, size: u16) -> Offload {
    Offload {
        checksum: Checksum::Present,
        gso: Some(Gso {
            kind,
            size,
            header_len: 0,
            ecn: false,
        }),
    }
}

fn kind(version: IpVersion) -> GsoKind {
    match version {
        IpVersion::V4 => GsoKind::TcpV4,
        IpVersion::V6 => GsoKind::TcpV6,
    }
}

fn segments(frame: &[u8], offload: &Offload, sums: Sums) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(frame, offload, sums).unwrap();
    let (count, mut out) = (segments.left(), vec![0xee; segments.max_len()]);
    let mut all = Vec::new();
    while let Some(len) = segments.next_into(&mut out) {
        all.push(out[..len].to_vec());
    }
    assert_eq!(all.len(), count);
    all
}

fn shapes() -> impl Strategy<Value = Shape> {
    let version = prop_oneof![Just(IpVersion::V4), Just(IpVersion::V6)];
    let payload = proptest::collection::vec(any::<u8>(), 0..9000);
    (0..3_usize, version, 0..=10_usize, 0..=10_usize, payload).prop_map(
        |(vlans, version, options, tcp_options, payload)| Shape {
            vlans,
            // As many extension headers as are looked through.
            options: if version == IpVersion::V6 {
                options.min(8)
            } else {
                options
            },
            tcp_options,
            ..Shape::tcp(version, payload)
        },
    )
}

/// What a frame's segment has to be: built anew from its shape, and then given its number.
fn model(shape: &Shape, piece: &[u8], at: usize, index: u16, flags: u8, blank: bool) -> Vec<u8> {
    let shape = Shape {
        payload: piece.to_vec(),
        ..shape.clone()
    };
    let mut frame = shape.build(true);
    let start = shape.start();
    let sequence = 1_u32 + u32::try_from(at).unwrap();
    frame[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
    frame[start + 13] = flags;
    if !blank {
        let sum = match !checksum_of(&frame[start..]) {
            0 => 0xffff,
            sum => sum,
        };
        frame[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(transport_sum(&shape, &frame), 0xffff);
    }
    if shape.version == IpVersion::V4 {
        let ip = 14 + shape.vlans * 4;
        let identification = 0x1234_u16.wrapping_add(index);
        frame[ip + 4..ip + 6].copy_from_slice(&identification.to_be_bytes());
        frame[ip + 10..ip + 12].fill(0);
        let sum = !checksum_of(&frame[ip..start]);
        frame[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

proptest! {
    #[test]
    fn segments_are_what_the_model_builds(
        shape in shapes(),
        size in 8_u16..3000,
        blank: bool,
        flags: u8,
        // What the large packet says of its own length and sum does not matter.
        lies: [u8; 2],
    ) {
        let mut frame = shape.build(true);
        let (ip, start) = (14 + shape.vlans * 4, shape.start());
        frame[start + 13] = flags;
        frame[start + 16..start + 18].copy_from_slice(&lies);
        let length = ip + if shape.version == IpVersion::V4 { 2 } else { 4 };
        frame[length..length + 2].copy_from_slice(&lies);
        let sums = if blank { Sums::Blank } else { Sums::Complete };
        let cut = segments(&frame, &offload(kind(shape.version), size), sums);

        let mut pieces: Vec<_> = shape.payload.chunks(usize::from(size)).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        prop_assert_eq!(cut.len(), pieces.len());
        let last = pieces.len() - 1;
        for (n, piece) in pieces.iter().enumerate() {
            let mut flags = flags;
            if n != last {
                flags &= !0x09;
            }
            if n != 0 {
                flags &= !0x80;
            }
            let at = n * usize::from(size);
            let index = u16::try_from(n).unwrap();
            prop_assert_eq!(&cut[n], &model(&shape, piece, at, index, flags, blank), "{}", n);
        }
    }

    #[test]
    fn any_bytes_are_survived(
        shape in shapes(),
        wild in proptest::collection::vec((0..120_usize, any::<u8>()), 0..12),
        keep in 0..400_usize,
        size: u16,
        v6: bool,
        blank: bool,
    ) {
        let mut frame = shape.build(true);
        frame.truncate(keep);
        for (at, byte) in wild {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        let kind = if v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
        let sums = if blank { Sums::Blank } else { Sums::Complete };
        if let Ok(mut segments) = Segments::new(&frame, &offload(kind, size), sums) {
            let most = segments.max_len();
            let (mut payload, mut count) = (Vec::new(), 0);
            let expected = segments.left();
            while let Some((headers, piece)) = segments.next_parts() {
                prop_assert!(headers.len() + piece.len() <= most);
                prop_assert!(piece.len() <= usize::from(size));
                payload.extend(piece);
                count += 1;
            }
            prop_assert_eq!(count, expected);
            prop_assert!(frame.ends_with(&payload));
            prop_assert_eq!(segments.next_parts(), None);
        }
    }
}

#[test]
fn the_largest_frame_in_the_smallest_pieces_is_bounded() {
    let shape = Shape::tcp(IpVersion::V4, vec![1; 65_535 - 40]);
    let frame = shape.build(true);
    let offload_of = |size| offload(GsoKind::TcpV4, size);
    assert_eq!(segments(&frame, &offload_of(8), Sums::Complete).len(), 8187);
    for size in [0, 1, 7] {
        let refused = Segments::new(&frame, &offload_of(size), Sums::Complete);
        assert_eq!(refused.err(), Some(NotSegmentable::Size { size }));
    }
}

#[test]
fn a_segment_too_long_for_its_length_field_is_refused() {
    let mut frame = Shape::tcp(IpVersion::V4, vec![1; 1000]).build(true);
    frame.resize(54 + 70_000, 1);
    for (size, fits) in [(65_535 - 40, true), (65_535 - 39, false), (65_535, false)] {
        let made = Segments::new(&frame, &offload(GsoKind::TcpV4, size), Sums::Blank);
        assert_eq!(made.is_ok(), fits, "{size}");
    }
}

#[test]
fn what_is_not_as_said_is_refused() {
    let tcp = Shape::tcp(IpVersion::V4, vec![1; 100]);
    let udp = Shape {
        protocol: Protocol::Udp,
        ..tcp.clone()
    };
    let refused = |shape: &Shape, offload| {
        let frame = shape.build(true);
        Segments::new(&frame, &offload, Sums::Complete).err()
    };
    let v4 = offload(GsoKind::TcpV4, 50);
    assert_eq!(refused(&tcp, v4), None);
    assert_eq!(
        refused(&udp, v4),
        Some(NotSegmentable::NoTcp(GsoKind::TcpV4))
    );
    assert_eq!(
        refused(&tcp, offload(GsoKind::TcpV6, 50)),
        Some(NotSegmentable::NoTcp(GsoKind::TcpV6))
    );
    assert_eq!(
        refused(&tcp, Offload::default()),
        Some(NotSegmentable::NoGso)
    );
}

#[test]
fn a_short_buffer_passes_nothing_over() {
    let frame = Shape::tcp(IpVersion::V6, vec![1; 100]).build(true);
    let mut segments = Segments::new(&frame, &offload(GsoKind::TcpV6, 60), Sums::Blank).unwrap();
    assert_eq!(segments.max_len(), 74 + 60);
    assert_eq!(segments.next_into(&mut [0; 133]), None);
    assert_eq!(segments.left(), 2);
    assert_eq!(segments.next_into(&mut [0; 134]), Some(134));
    assert_eq!(segments.next_into(&mut [0; 114]), Some(114));
    assert_eq!(segments.next_into(&mut [0; 134]), None);
}
