//! The messages between a broker and a back end: any bytes, as a request and as each kind of reply.

use cantle_grant::process::protocol::{
    self, BadMessage, Header, Items, MAX_ITEMS, MAX_MESSAGE, Mapped, Outgoing, Request, Status,
    WindowPlace, WindowSize,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Runs one input.
///
/// # Panics
///
/// Where a message is not the bytes that it was read from.
pub fn run(data: &[u8]) {
    let whole = match Request::parse(data) {
        Ok((_, Request::Confined)) => Some(true),
        Ok((_, Request::Map(items))) => written_again(data, &items),
        Ok((_, Request::Unmap(items))) => written_again(data, &items),
        Ok((_, Request::Copy(items))) => written_again(data, &items),
        Err(BadMessage) => None,
    };
    assert_ne!(whole, Some(false), "a request that is written otherwise");
    reply::<Mapped>(data);
    reply::<Status>(data);
    reply::<WindowPlace>(data);
    reply::<WindowSize>(data);
}

fn reply<T: FromBytes + IntoBytes + Immutable>(data: &[u8]) {
    if let Ok((_, items)) = protocol::parse::<T>(data) {
        let same = written_again(data, &items);
        assert_eq!(same, Some(true), "a reply that is written otherwise");
    }
}

/// Whether the items make the same message again.
fn written_again<T: FromBytes + IntoBytes + Immutable>(
    data: &[u8],
    items: &Items<'_, T>,
) -> Option<bool> {
    assert!(items.count() <= MAX_ITEMS && data.len() <= MAX_MESSAGE);
    let (header, _) = Header::read_from_prefix(data).ok()?;
    let mut out = Outgoing::new(header.kind, header.seq);
    for item in items.iter() {
        out.push(item).ok()?;
    }
    Some(out.as_bytes() == data)
}
