//! What each request is answered in each situation, as a table: the request, and the reply's kind and bytes.
//!
//! The answers are xenstored's, but where a note says otherwise.

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{
    XENSTORE_ABS_PATH_MAX, XENSTORE_PAYLOAD_MAX, XENSTORE_REL_PATH_MAX, XS_CONTROL, XS_DIRECTORY,
    XS_DIRECTORY_PART, XS_ERROR, XS_GET_DOMAIN_PATH, XS_GET_FEATURE, XS_GET_PERMS, XS_GET_QUOTA,
    XS_INTRODUCE, XS_IS_DOMAIN_INTRODUCED, XS_MKDIR, XS_READ, XS_RELEASE, XS_RESET_WATCHES,
    XS_RESUME, XS_RM, XS_SET_FEATURE, XS_SET_PERMS, XS_SET_QUOTA, XS_SET_TARGET,
    XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WATCH_EVENT, XS_WRITE,
    XsType,
};
use cantle_xenstore::server::{ConnId, Server};
use cantle_xenstore::wire::{Message, emit};

use crate::support::{GUEST, sent, world};

/// No transaction; the guest's or domain 0's open one; one that is not open.
const NONE: u32 = 0;
const OPEN: u32 = 1;
const UNKNOWN: u32 = 99;

const RESTRICT: XsType = XsType(20);
const INVALID: XsType = XsType(0xffff);

type Row = (XsType, u32, &'static [u8], &'static [u8]);

/// A store with these nodes, where both clients have a transaction and a watch open:
///
/// | node | value | permissions |
/// | --- | --- | --- |
/// | `/local/domain/5` | | `n5`, `r7` |
/// | `/local/domain/5/a` | `value` | `n5`, `r7` |
/// | `/local/domain/5/a/b` | | `n5`, `r7` |
/// | `/x/closed` | `hidden` | `n0` |
/// | `/x/shown` | `seen` | `n0`, `r5` |
/// | `/x/lent` | `lent` | `n0`, `b5` |
/// | `/x/lent/deep` | | `n0` |
fn situation() -> (Server, ConnId, ConnId) {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    for (op, payload) in [
        (XS_WRITE, &b"/local/domain/5/a\0value"[..]),
        (XS_MKDIR, b"/local/domain/5/a/b\0"),
        (XS_WRITE, b"/x/closed\0hidden"),
        (XS_WRITE, b"/x/shown\0seen"),
        (XS_SET_PERMS, b"/x/shown\0n0\0r5\0"),
        (XS_WRITE, b"/x/lent\0lent"),
        (XS_MKDIR, b"/x/lent/deep\0"),
        (XS_SET_PERMS, b"/x/lent\0n0\0b5\0"),
    ] {
        assert_eq!(answer(s, dom0, op, NONE, payload), (op, b"OK\0".to_vec()));
    }
    s.introduce(GUEST).unwrap();
    for conn in [dom0, guest] {
        answer(s, conn, XS_WATCH, NONE, b"/w\0token\0");
        answer(s, conn, XS_TRANSACTION_START, NONE, b"\0");
    }
    (server, dom0, guest)
}

fn answer(
    server: &mut Server,
    conn: ConnId,
    op: XsType,
    tx: u32,
    payload: &[u8],
) -> (XsType, Vec<u8>) {
    let mut bytes = Vec::new();
    emit(&mut bytes, op, 0xfeed, tx, &[payload]).unwrap();
    assert_eq!(server.feed(conn, &bytes), Ok(bytes.len()));
    let output = server.output(conn, usize::MAX).to_vec();
    let mut rest = output.as_slice();
    let mut found = None;
    while let Some((message, after)) = Message::parse(rest).unwrap() {
        if message.header.kind != XS_WATCH_EVENT {
            assert_eq!((message.header.req_id, message.header.tx_id), (0xfeed, tx));
            assert!(found.is_none(), "one answer");
            found = Some((message.header.kind, message.payload.to_vec()));
        }
        rest = after;
    }
    sent(server, conn);
    found.unwrap()
}

/// Each row in a situation of its own. An answer that is an error's name in capitals is an error.
fn holds(privileged: bool, rows: &[Row]) {
    for (op, tx, payload, wanted) in rows {
        let (mut server, dom0, guest) = situation();
        let conn = if privileged { dom0 } else { guest };
        let error = wanted.len() > 3 && wanted.starts_with(b"E") && wanted.ends_with(b"\0");
        let kind = if error { XS_ERROR } else { *op };
        let got = answer(&mut server, conn, *op, *tx, payload);
        let shown = String::from_utf8_lossy(payload).into_owned();
        assert_eq!(got, (kind, wanted.to_vec()), "{op:?} {tx} {shown:?}");
        let check = answer(&mut server, dom0, XS_CONTROL, NONE, b"check\0");
        assert_eq!(check.1, b"OK\0");
    }
}

#[test]
fn nodes_for_a_guest() {
    holds(
        false,
        &[
            (XS_READ, NONE, b"a\0", b"value"),
            (XS_READ, NONE, b"/local/domain/5/a\0", b"value"),
            (XS_READ, OPEN, b"a\0", b"value"),
            (XS_READ, UNKNOWN, b"a\0", b"ENOENT\0"),
            (XS_READ, NONE, b"none\0", b"ENOENT\0"),
            (XS_READ, NONE, b"none/deeper\0", b"ENOENT\0"),
            (XS_READ, NONE, b"/x/closed\0", b"EACCES\0"),
            (XS_READ, NONE, b"/x/none\0", b"EACCES\0"),
            (XS_READ, NONE, b"/x/shown\0", b"seen"),
            (XS_READ, NONE, b"/x/shown/none\0", b"ENOENT\0"),
            (XS_READ, NONE, b"/\0", b"EACCES\0"),
            (XS_READ, NONE, b"@introduceDomain\0", b"EINVAL\0"),
            (XS_WRITE, NONE, b"a\0new", b"OK\0"),
            (XS_WRITE, NONE, b"a\0", b"OK\0"),
            (XS_WRITE, NONE, b"p/q/r\0new", b"OK\0"),
            (XS_WRITE, NONE, b"/x/shown\0", b"EACCES\0"),
            (XS_WRITE, NONE, b"/x/shown/none\0", b"EACCES\0"),
            (XS_WRITE, NONE, b"/x/lent\0mine", b"OK\0"),
            (XS_WRITE, NONE, b"/x/lent/new\0", b"OK\0"),
            (XS_WRITE, NONE, b"/x/lent/deep\0", b"EACCES\0"),
            (XS_WRITE, NONE, b"/new\0", b"EACCES\0"),
            (XS_WRITE, NONE, b"a", b"EINVAL\0"),
            (XS_WRITE, UNKNOWN, b"a\0", b"ENOENT\0"),
            (XS_MKDIR, NONE, b"a\0", b"OK\0"),
            (XS_MKDIR, NONE, b"new/er\0", b"OK\0"),
            (XS_MKDIR, NONE, b"/x/shown\0", b"EACCES\0"),
            (XS_MKDIR, NONE, b"a\0b\0", b"EINVAL\0"),
            (XS_RM, NONE, b"a\0", b"OK\0"),
            (XS_RM, NONE, b"none\0", b"OK\0"),
            (XS_RM, NONE, b"none/deeper\0", b"ENOENT\0"),
            (XS_RM, NONE, b"/x/shown\0", b"EACCES\0"),
            (XS_RM, NONE, b"/x/none\0", b"EACCES\0"),
            (XS_RM, NONE, b"/\0", b"EACCES\0"),
            (XS_RM, NONE, b"/x/lent\0", b"OK\0"),
            (XS_DIRECTORY, NONE, b"a\0", b"b\0"),
            (XS_DIRECTORY, NONE, b"a/b\0", b""),
            (XS_DIRECTORY, NONE, b"/x\0", b"EACCES\0"),
            (XS_DIRECTORY, NONE, b"none\0", b"ENOENT\0"),
            (XS_DIRECTORY_PART, NONE, b"none\x000\0", b"ENOENT\0"),
            (XS_DIRECTORY_PART, NONE, b"/x\x000\0", b"EACCES\0"),
            (XS_DIRECTORY_PART, NONE, b"a\0", b"EINVAL\0"),
            (XS_DIRECTORY_PART, NONE, b"a\0zero\0", b"EINVAL\0"),
        ],
    );
}

#[test]
fn nodes_for_domain_0() {
    holds(
        true,
        &[
            (XS_READ, NONE, b"/x/closed\0", b"hidden"),
            (XS_READ, NONE, b"/x/none\0", b"ENOENT\0"),
            (XS_READ, NONE, b"/\0", b""),
            (XS_WRITE, NONE, b"/\0value", b"OK\0"),
            (XS_RM, NONE, b"/\0", b"EINVAL\0"),
            (XS_RM, NONE, b"/x/none\0", b"OK\0"),
            (XS_RM, NONE, b"/x/none/none\0", b"ENOENT\0"),
            (XS_RM, OPEN, b"/x\0", b"OK\0"),
            (XS_DIRECTORY, NONE, b"/x\0", b"closed\0lent\0shown\0"),
            (XS_DIRECTORY, NONE, b"/\0", b"local\0tool\0x\0"),
        ],
    );
}

#[test]
fn paths() {
    holds(
        true,
        &[
            (XS_READ, NONE, b"\0", b"EINVAL\0"),
            (XS_READ, NONE, b"", b"EINVAL\0"),
            (XS_READ, NONE, b"//\0", b"EINVAL\0"),
            (XS_READ, NONE, b"/x/\0", b"EINVAL\0"),
            (XS_READ, NONE, b"/x//lent\0", b"EINVAL\0"),
            (XS_READ, NONE, b"/x lent\0", b"EINVAL\0"),
            (XS_READ, NONE, b"/x.y\0", b"EINVAL\0"),
            (XS_READ, NONE, b"/x\xff\0", b"EINVAL\0"),
            (XS_READ, NONE, b"/x\0\0", b"EINVAL\0"),
            (XS_READ, NONE, b"/-_@Az09\0", b"ENOENT\0"),
        ],
    );
    let (mut server, dom0, guest) = situation();
    for (conn, first, len, wanted) in [
        (dom0, "/", XENSTORE_ABS_PATH_MAX, "OK\0"),
        (dom0, "/", XENSTORE_ABS_PATH_MAX + 1, "EINVAL\0"),
        (guest, "", XENSTORE_REL_PATH_MAX, "OK\0"),
        (guest, "", XENSTORE_REL_PATH_MAX + 1, "EINVAL\0"),
        (guest, "/", XENSTORE_REL_PATH_MAX + 1, "EACCES\0"),
    ] {
        let path = format!("{first}{}\0", "p".repeat(len - first.len()));
        let (_, text) = answer(&mut server, conn, XS_WRITE, NONE, path.as_bytes());
        assert_eq!(text, wanted.as_bytes(), "{first:?} {len}");
    }
    // The longest payload there is.
    let mut payload = b"/full\0".to_vec();
    payload.resize(XENSTORE_PAYLOAD_MAX, b'v');
    let done = (XS_WRITE, b"OK\0".to_vec());
    assert_eq!(answer(&mut server, dom0, XS_WRITE, NONE, &payload), done);
    let value = (XS_READ, payload[6..].to_vec());
    assert_eq!(answer(&mut server, dom0, XS_READ, NONE, b"/full\0"), value);
}

#[test]
fn permissions() {
    holds(
        false,
        &[
            (XS_GET_PERMS, NONE, b"a\0", b"n5\0r7\0"),
            (XS_GET_PERMS, NONE, b"/x/shown\0", b"n0\0r5\0"),
            (XS_GET_PERMS, NONE, b"/x/closed\0", b"EACCES\0"),
            (XS_GET_PERMS, NONE, b"none\0", b"ENOENT\0"),
            (XS_GET_PERMS, NONE, b"@releaseDomain\0", b"EACCES\0"),
            (XS_GET_PERMS, NONE, b"@none\0", b"EACCES\0"),
            (XS_SET_PERMS, NONE, b"a\0b5\0", b"OK\0"),
            (XS_SET_PERMS, NONE, b"a\0n5\0w9\0r8\0b7\0n6\0", b"OK\0"),
            (
                XS_SET_PERMS,
                NONE,
                b"a\0n5\0r1\0r2\0r3\0r4\0r6\0",
                b"ENOSPC\0",
            ),
            (XS_SET_PERMS, NONE, b"a\0n5\0reserved", b"OK\0"),
            (XS_SET_PERMS, NONE, b"a\0n7\0", b"EPERM\0"),
            (XS_SET_PERMS, NONE, b"a\0n0\0", b"EPERM\0"),
            (XS_SET_PERMS, NONE, b"a\0", b"EINVAL\0"),
            (XS_SET_PERMS, NONE, b"a\0n5", b"EINVAL\0"),
            (XS_SET_PERMS, NONE, b"a\0x5\0", b"EINVAL\0"),
            (XS_SET_PERMS, NONE, b"a\0n\0", b"EINVAL\0"),
            (XS_SET_PERMS, NONE, b"none\0n5\0", b"ENOENT\0"),
            (XS_SET_PERMS, NONE, b"/x/lent\0n0\0", b"EACCES\0"),
            (XS_SET_PERMS, NONE, b"@releaseDomain\0n0\0", b"EACCES\0"),
        ],
    );
    holds(
        true,
        &[
            (XS_SET_PERMS, NONE, b"/x/lent\0n7\0", b"OK\0"),
            (XS_SET_PERMS, NONE, b"/\0r0\0", b"OK\0"),
            (XS_SET_PERMS, NONE, b"/none\0r0\0", b"ENOENT\0"),
            (XS_GET_PERMS, NONE, b"@releaseDomain\0", b"n0\0"),
            (XS_GET_PERMS, NONE, b"@none\0", b"ENOENT\0"),
            (XS_SET_PERMS, NONE, b"@introduceDomain\0n0\0r5\0", b"OK\0"),
            (XS_SET_PERMS, NONE, b"@none\0n0\0", b"ENOENT\0"),
        ],
    );
}

#[test]
fn watches_and_transactions() {
    holds(
        false,
        &[
            (XS_WATCH, NONE, b"a\0t\0", b"OK\0"),
            (XS_WATCH, UNKNOWN, b"a\0t\0", b"OK\0"),
            (XS_WATCH, NONE, b"/x/closed\0t\0", b"OK\0"),
            (XS_WATCH, NONE, b"/w\0token\0", b"EEXIST\0"),
            (XS_WATCH, NONE, b"/w\0\0", b"OK\0"),
            (XS_WATCH, NONE, b"/w\0", b"EINVAL\0"),
            (XS_WATCH, NONE, b"/w/\0t\0", b"EINVAL\0"),
            (XS_WATCH, NONE, b"@introduceDomain\0t\0", b"OK\0"),
            (XS_UNWATCH, NONE, b"/w\0token\0", b"OK\0"),
            (XS_UNWATCH, UNKNOWN, b"/w\0token\0", b"OK\0"),
            (XS_UNWATCH, NONE, b"/w\0other\0", b"ENOENT\0"),
            (XS_UNWATCH, NONE, b"/w\0", b"EINVAL\0"),
            (XS_UNWATCH, NONE, b"/w//\0token\0", b"EINVAL\0"),
            (XS_RESET_WATCHES, NONE, b"\0", b"OK\0"),
            (XS_RESET_WATCHES, OPEN, b"\0", b"OK\0"),
            (XS_RESET_WATCHES, UNKNOWN, b"\0", b"ENOENT\0"),
            (XS_TRANSACTION_START, NONE, b"\0", b"2\0"),
            (XS_TRANSACTION_START, OPEN, b"\0", b"EBUSY\0"),
            (XS_TRANSACTION_START, UNKNOWN, b"\0", b"ENOENT\0"),
            (XS_TRANSACTION_END, OPEN, b"T\0", b"OK\0"),
            (XS_TRANSACTION_END, OPEN, b"F\0", b"OK\0"),
            (XS_TRANSACTION_END, OPEN, b"t\0", b"EINVAL\0"),
            (XS_TRANSACTION_END, OPEN, b"T", b"EINVAL\0"),
            (XS_TRANSACTION_END, OPEN, b"", b"EINVAL\0"),
            (XS_TRANSACTION_END, NONE, b"T\0", b"ENOENT\0"),
            (XS_TRANSACTION_END, UNKNOWN, b"no word\0", b"ENOENT\0"),
        ],
    );
}

#[test]
fn what_is_for_the_toolstack() {
    for op in [
        XS_CONTROL,
        XS_INTRODUCE,
        XS_RELEASE,
        XS_IS_DOMAIN_INTRODUCED,
        XS_RESUME,
        XS_SET_TARGET,
        XS_SET_FEATURE,
        XS_GET_QUOTA,
        XS_SET_QUOTA,
    ] {
        holds(
            false,
            &[
                (op, NONE, b"", b"EACCES\0"),
                (op, UNKNOWN, b"5\0", b"EACCES\0"),
            ],
        );
    }
    holds(
        true,
        &[
            (XS_INTRODUCE, NONE, b"6\x0012\x003\0", b"OK\0"),
            (XS_INTRODUCE, NONE, b"5\x0012\x003\0", b"OK\0"),
            (XS_INTRODUCE, NONE, b"0\x0012\x003\0", b"EINVAL\0"),
            (XS_INTRODUCE, NONE, b"32752\x0012\x003\0", b"EINVAL\0"),
            (XS_INTRODUCE, NONE, b"6\x0012\x000\0", b"EINVAL\0"),
            (XS_INTRODUCE, NONE, b"6\x0012\0", b"EINVAL\0"),
            (XS_INTRODUCE, UNKNOWN, b"6\x0012\x003\0", b"ENOENT\0"),
            (XS_RELEASE, NONE, b"5\0", b"OK\0"),
            (XS_RELEASE, NONE, b"6\0", b"ENOENT\0"),
            (XS_RELEASE, NONE, b"0\0", b"EINVAL\0"),
            (XS_RELEASE, NONE, b"70000\0", b"EINVAL\0"),
            (XS_RESUME, NONE, b"5\0", b"OK\0"),
            (XS_RESUME, NONE, b"6\0", b"ENOENT\0"),
            (XS_RESUME, NONE, b"0\0", b"EINVAL\0"),
            (XS_IS_DOMAIN_INTRODUCED, NONE, b"5\0", b"T\0"),
            (XS_IS_DOMAIN_INTRODUCED, NONE, b"6\0", b"F\0"),
            (XS_IS_DOMAIN_INTRODUCED, NONE, b"0\0", b"T\0"),
            (XS_IS_DOMAIN_INTRODUCED, NONE, b"32752\0", b"T\0"),
            (XS_IS_DOMAIN_INTRODUCED, NONE, b"x\0", b"EINVAL\0"),
            (XS_SET_TARGET, NONE, b"5\x006\0", b"ENOENT\0"),
            (XS_SET_TARGET, NONE, b"5\0", b"EINVAL\0"),
            (XS_SET_FEATURE, NONE, b"6\x004\0", b"OK\0"),
            (XS_SET_FEATURE, NONE, b"5\x004\0", b"EBUSY\0"),
            (XS_GET_FEATURE, NONE, b"5\x006\0", b"EINVAL\0"),
        ],
    );
}

#[test]
fn what_anybody_may_ask() {
    holds(
        false,
        &[
            (XS_GET_DOMAIN_PATH, NONE, b"5\0", b"/local/domain/5\0"),
            (XS_GET_DOMAIN_PATH, NONE, b"007\0", b"/local/domain/7\0"),
            (
                XS_GET_DOMAIN_PATH,
                NONE,
                b"65535\0",
                b"/local/domain/65535\0",
            ),
            (XS_GET_DOMAIN_PATH, NONE, b"65536\0", b"EINVAL\0"),
            (XS_GET_DOMAIN_PATH, NONE, b"5x\0", b"EINVAL\0"),
            (XS_GET_DOMAIN_PATH, NONE, b"5", b"EINVAL\0"),
            (XS_GET_DOMAIN_PATH, UNKNOWN, b"5\0", b"ENOENT\0"),
            (XS_GET_FEATURE, NONE, b"5\0", b"EACCES\0"),
            (RESTRICT, NONE, b"5\0", b"ENOSYS\0"),
            (RESTRICT, UNKNOWN, b"5\0", b"ENOSYS\0"),
            (XS_WATCH_EVENT, NONE, b"a\0t\0", b"ENOSYS\0"),
            (XS_ERROR, NONE, b"ENOENT\0", b"ENOSYS\0"),
            (XsType(27), NONE, b"", b"ENOSYS\0"),
            (INVALID, NONE, b"", b"ENOSYS\0"),
        ],
    );
}

#[test]
fn quotas_refuse_in_the_protocols_words() {
    let (mut server, dom0, guest) = situation();
    let s = &mut server;
    let mut until = |op: XsType, make: &dyn Fn(u32) -> Vec<u8>| {
        (0..2000)
            .map(|number| answer(s, guest, op, NONE, &make(number)))
            .find(|(kind, _)| *kind == XS_ERROR)
            .map(|(_, text)| String::from_utf8(text).unwrap())
    };
    let watch = until(XS_WATCH, &|number| format!("a\0{number}\0").into_bytes());
    assert_eq!(watch.as_deref(), Some("E2BIG\0"));
    let start = until(XS_TRANSACTION_START, &|_| b"\0".to_vec());
    assert_eq!(start.as_deref(), Some("ENOSPC\0"));
    let nodes = until(XS_MKDIR, &|number| format!("n{number}\0").into_bytes());
    assert_eq!(nodes.as_deref(), Some("ENOSPC\0"));
    let size = until(XS_WRITE, &|number| {
        [b"a\0", vec![b'v'; 2000 + number as usize].as_slice()].concat()
    });
    assert_eq!(size.as_deref(), Some("ENOSPC\0"));
    // Others do not notice.
    let other = s.connect(DomId(6), false);
    let found = answer(s, other, XS_WATCH, NONE, b"a\0t\0");
    assert_eq!(found, (XS_WATCH, b"OK\0".to_vec()));
    let deep = format!("{}\0t\0", vec!["d"; 62].join("/"));
    let refused = answer(s, other, XS_WATCH, NONE, deep.as_bytes());
    assert_eq!(refused, (XS_ERROR, b"ENOSPC\0".to_vec()));
    let fine = answer(s, dom0, XS_WRITE, NONE, b"/fine\0");
    assert_eq!(fine, (XS_WRITE, b"OK\0".to_vec()));
}
