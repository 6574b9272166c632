//! xenstore's messages: any bytes, in one piece and in several.

use cantle_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX;
use cantle_xenstore::Perms;
use cantle_xenstore::wire::{self, Message};

/// Runs one input.
///
/// # Panics
///
/// Where a message is not the bytes that it was parsed from, or longer than the protocol has it.
pub fn run(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((message, after))) = Message::parse(rest) {
        let (header, payload) = (message.header, message.payload);
        assert!(payload.len() <= XENSTORE_PAYLOAD_MAX);
        assert_eq!(
            Message::length(rest),
            Ok(Some(rest.len() - after.len())),
            "the length is known in advance"
        );
        let mut bytes = Vec::new();
        let emitted = wire::emit(
            &mut bytes,
            header.kind,
            header.req_id,
            header.tx_id,
            &[payload],
        );
        assert_eq!(emitted, Ok(()));
        assert_eq!(rest.get(..bytes.len()), Some(&bytes[..]));
        // All but the last byte is no message yet.
        let (_, begun) = bytes.split_last().unwrap_or((&0, &[]));
        assert_eq!(Message::parse(begun), Ok(None));
        let _ = wire::reply(header.kind, payload);
        permissions(payload);
        rest = after;
    }
    permissions(data);
}

fn permissions(bytes: &[u8]) {
    if let Ok(perms) = Perms::parse(bytes) {
        assert_eq!(Perms::parse(&perms.emit()), Ok(perms));
    }
}
