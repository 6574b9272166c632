//! Messages: what is written is read, and no bytes do harm.

use proptest::prelude::*;

use super::*;

fn message<T: IntoBytes + Immutable + Copy>(kind: Kind, seq: u32, items: &[T]) -> Outgoing {
    let mut out = Outgoing::new(kind, seq);
    for item in items {
        out.push(*item).unwrap();
    }
    out
}

#[test]
fn no_more_items_than_a_message_has_room_for() {
    let mut out = message(Kind::UNMAP, 7, &[1_u32; MAX_ITEMS]);
    assert_eq!(out.push(1_u32), Err(BadMessage));
    assert_eq!(out.as_bytes().len(), 8 + MAX_ITEMS * 4);
    assert!(Request::parse(out.as_bytes()).is_ok());
}

#[test]
fn a_message_has_the_length_that_it_says() {
    let whole = message(Kind::UNMAP, 7, &[1_u32, 2]);
    let bytes = whole.as_bytes();
    for len in 0..bytes.len() {
        assert!(Request::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
    let longer = [bytes, &[0]].concat();
    assert!(Request::parse(&longer).is_err());
}

#[test]
fn what_only_a_broker_says_is_no_request() {
    for kind in [0, 1, 2, 7, 0xffff] {
        let out = message::<u32>(Kind(kind), 0, &[]);
        assert!(Request::parse(out.as_bytes()).is_err(), "kind {kind}");
    }
}

proptest! {
    #[test]
    fn maps_are_read_as_they_were_written(
        seq: u32,
        items in prop::collection::vec((any::<u16>(), any::<u16>(), any::<u32>()), 0..=MAX_ITEMS),
    ) {
        let items: Vec<MapItem> = items
            .into_iter()
            .map(|(granter, flags, gref)| MapItem { granter, flags, gref })
            .collect();
        let out = message(Kind::MAP, seq, &items);
        let (read, request) = Request::parse(out.as_bytes()).unwrap();
        let Request::Map(read_items) = request else {
            panic!("a map became {request:?}");
        };
        prop_assert_eq!(read, seq);
        prop_assert_eq!(read_items.iter().collect::<Vec<_>>(), items);
    }

    #[test]
    fn any_bytes_are_a_request_of_their_length_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let size = match Request::parse(&bytes) {
            Err(BadMessage) => return Ok(()),
            Ok((_, Request::Confined)) => 0,
            Ok((_, Request::Map(items))) => items.iter().count() * 8,
            Ok((_, Request::Unmap(items))) => items.iter().count() * 4,
            Ok((_, Request::Copy(items))) => items.iter().count() * 16,
        };
        prop_assert_eq!(bytes.len(), 8 + size);
    }
}
