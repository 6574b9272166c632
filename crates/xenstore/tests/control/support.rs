//! A server, and clients that speak bytes.

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{XS_ERROR, XS_MKDIR, XS_SET_PERMS, XsType};
use cantle_xenstore::server::{ConnId, Server};
use cantle_xenstore::wire::{Message, emit};

pub(crate) const GUEST: DomId = DomId(5);

pub(crate) fn send(server: &mut Server, conn: ConnId, op: XsType, payload: &[u8]) {
    let mut bytes = Vec::new();
    emit(&mut bytes, op, 77, 0, &[payload]).unwrap();
    assert_eq!(server.feed(conn, &bytes), Ok(bytes.len()));
}

/// What waits, as one message's kind and payload; `None` where nothing waits.
pub(crate) fn received(server: &mut Server, conn: ConnId) -> Option<(XsType, String)> {
    let bytes = server.output(conn, usize::MAX).to_vec();
    let (message, rest) = Message::parse(&bytes).unwrap()?;
    assert!(rest.is_empty());
    server.consume_output(conn, bytes.len());
    assert_eq!(message.header.req_id, 77);
    let text = String::from_utf8(message.payload.to_vec()).unwrap();
    Some((message.header.kind, text.replace('\0', "|")))
}

/// Sends one request and returns the reply's payload; an error's is preceded by a `!`.
pub(crate) fn ask(server: &mut Server, conn: ConnId, op: XsType, payload: &[u8]) -> String {
    send(server, conn, op, payload);
    match received(server, conn).unwrap() {
        (XS_ERROR, text) => format!("!{}", text.trim_end_matches('|')),
        (kind, text) => {
            assert_eq!(kind, op);
            text
        }
    }
}

/// A server with domain 0 and a guest that has a home.
pub(crate) fn world() -> (Server, ConnId, ConnId) {
    let mut server = Server::new();
    let dom0 = server.connect(DomId::DOM0, true);
    let guest = server.connect(GUEST, false);
    let home = "/local/domain/5\0";
    assert_eq!(ask(&mut server, dom0, XS_MKDIR, home.as_bytes()), "OK|");
    let owned = format!("{home}n5\0");
    assert_eq!(
        ask(&mut server, dom0, XS_SET_PERMS, owned.as_bytes()),
        "OK|"
    );
    (server, dom0, guest)
}

/// A table of requests and what each is answered, in order; in both, `|` stands for NUL.
pub(crate) fn table(server: &mut Server, conn: ConnId, op: XsType, rows: &[(&str, &str)]) {
    for (payload, wanted) in rows {
        let answer = ask(server, conn, op, payload.replace('|', "\0").as_bytes());
        assert_eq!(&answer, wanted, "{payload}");
    }
}
