//! A server, and clients that speak to it in bytes.

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{XS_ERROR, XS_MKDIR, XS_SET_PERMS, XsType};
use cantle_xenstore::server::{ConnId, Server};
use cantle_xenstore::wire::{Message, emit};

pub(crate) const GUEST: DomId = DomId(5);

/// Everything that waits on a connection, as kinds and payloads.
pub(crate) fn sent(server: &mut Server, conn: ConnId) -> Vec<(XsType, Vec<u8>)> {
    let bytes = server.output(conn, usize::MAX).to_vec();
    server.consume_output(conn, bytes.len());
    let mut rest = bytes.as_slice();
    let mut messages = Vec::new();
    while let Some((message, after)) = Message::parse(rest).unwrap() {
        messages.push((message.header.kind, message.payload.to_vec()));
        rest = after;
    }
    assert!(rest.is_empty());
    messages
}

/// Sends one request and returns the reply's payload; an error's is preceded by a `!`.
pub(crate) fn ask_in(
    server: &mut Server,
    conn: ConnId,
    op: XsType,
    tx: u32,
    payload: &[u8],
) -> String {
    let mut bytes = Vec::new();
    emit(&mut bytes, op, 77, tx, &[payload]).unwrap();
    assert_eq!(server.feed(conn, &bytes), Ok(bytes.len()));
    let output = server.output(conn, usize::MAX).to_vec();
    let (message, _) = Message::parse(&output).unwrap().unwrap();
    assert_eq!((message.header.req_id, message.header.tx_id), (77, tx));
    let (kind, payload) = sent(server, conn).remove(0);
    let text = String::from_utf8(payload).unwrap().replace('\0', "|");
    if kind == XS_ERROR {
        return format!("!{}", text.trim_end_matches('|'));
    }
    assert_eq!(kind, op);
    text
}

pub(crate) fn ask(server: &mut Server, conn: ConnId, op: XsType, payload: &[u8]) -> String {
    ask_in(server, conn, op, 0, payload)
}

pub(crate) fn world() -> (Server, ConnId, ConnId) {
    let mut server = Server::new();
    let dom0 = server.connect(DomId::DOM0, true);
    let guest = server.connect(GUEST, false);
    assert_eq!(
        ask(&mut server, dom0, XS_MKDIR, b"/local/domain/5\0"),
        "OK|"
    );
    assert_eq!(
        ask(
            &mut server,
            dom0,
            XS_SET_PERMS,
            b"/local/domain/5\0n5\0r7\0"
        ),
        "OK|"
    );
    (server, dom0, guest)
}
