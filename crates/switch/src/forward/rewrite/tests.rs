use cantle_netport::{Gso, GsoKind};
use proptest::prelude::*;

use super::*;
use crate::VlanId;

/// The frame in parts of the given lengths; the rest in one more.
fn split<'a>(mut bytes: &'a [u8], lens: &[usize]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    for len in lens {
        let (part, rest) = bytes.split_at(bytes.len().min(*len));
        parts.push(Part::from(part));
        bytes = rest;
    }
    parts.push(Part::from(bytes));
    parts
}

fn joined(parts: &[Part<'_>]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        let mut bytes = vec![0; part.len()];
        part.copy_to(&mut bytes);
        all.extend(bytes);
    }
    all
}

fn offload(start: u16, header_len: u16) -> Offload {
    Offload {
        checksum: Checksum::Blank { start, offset: 16 },
        gso: Some(Gso {
            kind: GsoKind::TcpV4,
            size: 1448,
            header_len,
            ecn: false,
        }),
    }
}

#[test]
fn places_move_with_the_tag() {
    let bytes = [7; 100];
    let parts = [Part::from(&bytes[..])];
    let frame = |offload| Frame {
        parts: &parts,
        len: 100,
        offload,
        taken: false,
    };
    let tci = Tci(5);
    let push = Head::new(&frame(offload(34, 54)), Retag::Push(tci)).unwrap();
    assert_eq!((push.offload, push.len), (offload(38, 58), 104));
    let pop = Head::new(&frame(offload(38, 0)), Retag::Pop).unwrap();
    assert_eq!((pop.offload, pop.len), (offload(34, 0), 96));
    let replace = Head::new(&frame(offload(38, 58)), Retag::Replace(tci)).unwrap();
    assert_eq!((replace.offload, replace.len), (offload(38, 58), 100));
    // Places within what changes, or past what a number can say.
    assert!(Head::new(&frame(offload(17, 0)), Retag::Pop).is_none());
    assert!(Head::new(&frame(offload(18, 17)), Retag::Pop).is_none());
    assert!(Head::new(&frame(offload(13, 0)), Retag::Push(tci)).is_none());
    assert!(Head::new(&frame(offload(u16::MAX - 3, 0)), Retag::Push(tci)).is_none());
}

#[test]
fn a_frame_that_would_be_too_long_is_refused() {
    let bytes = vec![7; FRAME_MAX];
    let parts = [Part::from(&bytes[..])];
    let frame = |len| Frame {
        parts: &parts,
        len,
        offload: Offload::default(),
        taken: false,
    };
    assert!(Head::new(&frame(FRAME_MAX - 4), Retag::Push(Tci(1))).is_some());
    assert!(Head::new(&frame(FRAME_MAX - 3), Retag::Push(Tci(1))).is_none());
}

proptest! {
    #[test]
    fn bytes_are_those_of_the_plain_way(
        len in 0_usize..700, what in 0_usize..3, top in 0_u16..16, vlan in 1_u16..4095,
        lens in proptest::collection::vec(prop_oneof![0_usize..40, 240..270_usize, 0..600_usize], 0..5),
    ) {
        let bytes: Vec<u8> = (0..len).map(|at| at.to_le_bytes()[0]).collect();
        let parts = split(&bytes, &lens);
        let frame = Frame { parts: &parts, len, offload: Offload::default(), taken: false };
        let tci = Tci(top << 12).with_vlan(VlanId::new(vlan).unwrap());
        let [high, low] = (top << 12 | vlan).to_be_bytes();
        let retag = [Retag::Push(tci), Retag::Replace(tci), Retag::Pop][what];
        let first = parts[0].len();
        // Only what the first part has is looked at, unless it goes on as far as any header may.
        let seen = if first < HEADERS_MAX { first } else { len };
        let Some(head) = Head::new(&frame, retag) else {
            let least = if what == 0 { 14 } else { 18 };
            prop_assert!(seen < least);
            return Ok(());
        };
        let mut expected = bytes.clone();
        match retag {
            Retag::Push(_) => drop(expected.splice(12..12, [0x81, 0, high, low])),
            Retag::Replace(_) => expected[14..16].copy_from_slice(&[high, low]),
            _ => drop(expected.drain(12..16)),
        }
        let mut new = Vec::new();
        head.parts(&parts, &mut new);
        prop_assert_eq!(joined(&new), &expected[..]);
        prop_assert_eq!(head.len, expected.len());
        // What a first part must hold, it still holds.
        if first >= HEADERS_MAX {
            prop_assert!(new[0].len() >= HEADERS_MAX.min(expected.len()));
        } else {
            prop_assert_eq!(new[0].len() + bytes.len(), first + expected.len());
        }
    }
}
