//! A guest that goes from one server to another.

mod by_hand;
mod refused;

use cantle_abi::io::xs_wire::*;
use cantle_abi::{DomId, Port};
use cantle_xenstore::server::{ConnId, ConnKind, HostConn, RestoredConn};
use cantle_xenstore::state::{Conn, Reader, Record};
use cantle_xenstore::wire::{self, Message};
use cantle_xenstore::{Limits, Server, TxId};
use proptest::prelude::*;

fn ask(server: &mut Server, conn: ConnId, tx: u32, op: XsType, payload: &str) -> String {
    match server.request(conn, op, TxId(tx), payload.as_bytes()) {
        Ok(answer) => String::from_utf8(answer).unwrap(),
        Err(errno) => format!("{errno}"),
    }
}

fn check(server: &mut Server) {
    let dom0 = server.connect_socket();
    assert_eq!(ask(server, dom0, 0, XS_CONTROL, "check\0"), "OK\0");
    server.disconnect(dom0);
}

/// A server with a guest whose home is its own, and which domain 7 may read.
fn with_guest(limits: Limits, domid: DomId) -> (Server, ConnId, ConnId) {
    let mut server = Server::with_limits(limits);
    let dom0 = server.connect_socket();
    server.introduce(domid).unwrap();
    let home = format!("/local/domain/{domid}");
    for (op, payload) in [
        (XS_WRITE, "/local/domain/7\0".to_owned()),
        (XS_WRITE, "/outside\0value".to_owned()),
        (XS_SET_PERMS, "/outside\0r0\0".to_owned()),
        (XS_WRITE, format!("{home}\0home")),
        (XS_SET_PERMS, format!("{home}\0n{domid}\0r7\0")),
    ] {
        assert_eq!(ask(&mut server, dom0, 0, op, &payload), "OK\0");
    }
    let ring = server.connect_as(ConnKind::Ring, domid, false);
    (server, dom0, ring)
}

fn leave(server: &Server, domid: DomId, ring: ConnId, unfed: &[u8]) -> Vec<u8> {
    let by = Conn::Ring {
        domid,
        target: None,
        port: Port(3),
    };
    let known = HostConn {
        conn: ring,
        by,
        unfed,
        unique_id: Some(77),
    };
    let mut stream = Vec::new();
    server
        .save_domain(&mut stream, domid, Some(&known))
        .unwrap();
    stream
}

fn output(server: &mut Server, conn: ConnId) -> Vec<(XsType, String)> {
    let bytes = server.output(conn, usize::MAX).to_vec();
    server.consume_output(conn, bytes.len());
    let mut rest = &bytes[..];
    let mut list = Vec::new();
    while let Some((message, after)) = Message::parse(rest).unwrap() {
        let payload = String::from_utf8_lossy(message.payload).into_owned();
        list.push((message.header.kind, payload));
        rest = after;
    }
    assert!(rest.is_empty());
    list
}

fn start(server: &mut Server, conn: ConnId) -> u32 {
    let id = ask(server, conn, 0, XS_TRANSACTION_START, "\0");
    id.trim_end_matches('\0').parse().unwrap()
}

/// The committed nodes of a guest, and its quotas.
fn nodes(server: &Server, domid: DomId) -> Vec<String> {
    let mut stream = Vec::new();
    server.save_domain(&mut stream, domid, None).unwrap();
    let records = Reader::new(&stream).unwrap().map(Result::unwrap);
    records.map(|record| format!("{record:?}")).collect()
}

#[test]
fn a_guest_finds_its_part_under_another_number() {
    let (mut old, dom0, guest) = with_guest(Limits::DEFAULT, DomId(5));
    ask(&mut old, dom0, 0, XS_SET_QUOTA, "5\0watches\x009\0");
    for (op, payload) in [
        (XS_WRITE, "x\0one"),
        (XS_WRITE, "x/y\0two"),
        (XS_WRITE, "/local/domain/5/gone\0three"),
        (XS_SET_PERMS, "x/y\0b5\0r0\0w7\0"),
        (XS_WATCH, "x\0relative\0"),
        (XS_WATCH, "/local/domain/5/x\0absolute\x001\0"),
        (XS_WATCH, "/outside\0elsewhere\0"),
    ] {
        assert_eq!(ask(&mut old, guest, 0, op, payload), "OK\0", "{payload}");
    }
    output(&mut old, guest);
    ask(&mut old, dom0, 0, XS_WRITE, "/local/domain/5/x\0changed");
    let good = start(&mut old, guest);
    assert_eq!(ask(&mut old, guest, good, XS_READ, "x\0"), "changed");
    ask(&mut old, guest, good, XS_WRITE, "x/new\0in a transaction");
    ask(&mut old, guest, good, XS_RM, "gone\0");
    let lost = start(&mut old, guest);
    assert_eq!(ask(&mut old, guest, lost, XS_READ, "/outside\0"), "value");
    ask(&mut old, guest, lost, XS_WRITE, "x/lost\0");
    let mut request = Vec::new();
    wire::emit(&mut request, XS_READ, 1, 0, &[b"x/y\0"]).unwrap();
    let (begun, unfed) = request.split_at(11);
    assert_eq!(old.feed(guest, begun), Ok(11));
    let stream = leave(&old, DomId(5), guest, unfed);

    // Its toolstack has made something here; another domain 7 is here.
    let (mut new, dom0, _) = with_guest(Limits::DEFAULT, DomId(8));
    let here = "/local/domain/9/device\0here";
    assert_eq!(ask(&mut new, dom0, 0, XS_WRITE, here), "OK\0");
    assert_eq!(
        ask(&mut new, dom0, 0, XS_WATCH, "/local/domain/9\0t\0"),
        "OK\0"
    );
    while new.take_event(dom0).is_some() {}
    let RestoredConn {
        conn,
        by,
        unfed,
        unique_id,
    } = new.load_domain(&stream, DomId(9)).unwrap().unwrap();
    let ring = Conn::Ring {
        domid: DomId(9),
        target: None,
        port: Port(3),
    };
    assert_eq!((by, unique_id), (ring, Some(77)));
    assert!(new.introduce(DomId(9)).unwrap());
    check(&mut new);
    let told = std::iter::from_fn(|| new.take_event(dom0)).count();
    assert_eq!(told, 4, "the home, x, x/y and gone");
    // What waited, first the event of the watch that was set last, as in the old server.
    let events = |server: &mut Server, conn| {
        let mut events = output(server, conn);
        events.sort();
        events
    };
    let event = |payload: &str| (XS_WATCH_EVENT, payload.to_owned());
    let expected = ["/local/domain/9/x\0absolute\0", "x\0relative\0"].map(event);
    assert_eq!(events(&mut new, conn), expected);
    // The message whose beginning was there.
    assert_eq!(new.feed(conn, &unfed), Ok(unfed.len()));
    assert_eq!(output(&mut new, conn), [(XS_READ, "two".to_owned())]);
    assert_eq!(ask(&mut new, conn, 0, XS_GET_PERMS, "x/y\0"), "b9\0r0\0");
    assert_eq!(
        ask(&mut new, conn, 0, XS_GET_PERMS, "/local/domain/9\0"),
        "n9\0"
    );
    assert_eq!(
        ask(&mut new, dom0, 0, XS_READ, "/local/domain/9/device\0"),
        "here"
    );
    assert_eq!(ask(&mut new, dom0, 0, XS_GET_QUOTA, "9\0watches\0"), "9\0");
    assert_eq!(
        ask(&mut new, dom0, 0, XS_READ, "/local/domain/5/x\0"),
        "ENOENT"
    );
    // Its transactions.
    assert_eq!(
        ask(&mut new, conn, lost, XS_TRANSACTION_END, "T\0"),
        "EAGAIN"
    );
    assert_eq!(
        ask(&mut new, conn, good, XS_READ, "x/new\0"),
        "in a transaction"
    );
    assert_eq!(ask(&mut new, conn, good, XS_TRANSACTION_END, "T\0"), "OK\0");
    assert_eq!(ask(&mut new, conn, 0, XS_READ, "gone\0"), "ENOENT");
    let expected = ["/local/domain/9/x/new\0absolute\0", "x/new\0relative\0"].map(event);
    assert_eq!(events(&mut new, conn), expected);
    assert!(start(&mut new, conn) > lost, "no number comes again");
    check(&mut new);
    new.release(DomId(9)).unwrap();
    assert_eq!(
        ask(&mut new, dom0, 0, XS_READ, "/local/domain/9/x\0"),
        "ENOENT"
    );
    check(&mut new);
}

/// A transaction that somebody has interfered with, before the journey and after it.
#[test]
fn transactions_fail_as_they_would_have() {
    let changes = ["/local/domain/5/x\0other", "/local/domain/5/beside\0other"];
    for (change, outcome) in changes.into_iter().zip(["EAGAIN", "OK\0"]) {
        for before in [true, false] {
            let (mut old, dom0, guest) = with_guest(Limits::DEFAULT, DomId(5));
            ask(&mut old, guest, 0, XS_WRITE, "x\0one");
            let tx = start(&mut old, guest);
            ask(&mut old, guest, tx, XS_READ, "x\0");
            ask(&mut old, guest, tx, XS_WRITE, "z\0");
            if before {
                assert_eq!(ask(&mut old, dom0, 0, XS_WRITE, change), "OK\0");
            }
            let stream = leave(&old, DomId(5), guest, &[]);
            let mut new = Server::new();
            let conn = new.load_domain(&stream, DomId(5)).unwrap().unwrap().conn;
            let dom0 = new.connect_socket();
            if !before {
                assert_eq!(ask(&mut new, dom0, 0, XS_WRITE, change), "OK\0");
            }
            let end = ask(&mut new, conn, tx, XS_TRANSACTION_END, "T\0");
            assert_eq!(end, outcome, "{change}, {before}");
            check(&mut new);
        }
    }
}

/// What a guest does in its home, and what domain 0 does there.
fn request() -> impl Strategy<Value = (XsType, String)> {
    let path = || {
        prop::sample::select(vec![
            "x",
            "x/y",
            "x/y/z",
            "a",
            "a/b",
            "/local/domain/5",
            "/local/domain/5/x",
            "/local/domain/5/a/c",
        ])
    };
    let text = |op: XsType| move |path: &str| (op, format!("{path}\0"));
    prop_oneof![
        4 => (path(), "[a-c]{0,3}").prop_map(|(path, value)| (XS_WRITE, format!("{path}\0{value}"))),
        2 => path().prop_map(text(XS_READ)),
        1 => path().prop_map(text(XS_DIRECTORY)),
        1 => path().prop_map(text(XS_MKDIR)),
        1 => path().prop_map(text(XS_RM)),
        1 => path().prop_map(text(XS_GET_PERMS)),
        1 => (path(), prop::sample::select(vec!["n5", "b5\0r0", "r0\0b5"]))
            .prop_map(|(path, perms)| (XS_SET_PERMS, format!("{path}\0{perms}\0"))),
        1 => (path(), "[st]").prop_map(|(path, token)| (XS_WATCH, format!("{path}\0{token}\0"))),
        1 => (path(), "[st]").prop_map(|(path, token)| (XS_UNWATCH, format!("{path}\0{token}\0"))),
    ]
}

/// Who does it: domain 0, which has a home of its own, does it by the whole path.
fn act(
    server: &mut Server,
    [dom0, guest]: [ConnId; 2],
    by_guest: bool,
    tx: u32,
    (op, payload): &(XsType, String),
) {
    let mut message = Vec::new();
    let (conn, payload) = match by_guest {
        true => (guest, payload.clone()),
        false if payload.starts_with('/') => (dom0, payload.clone()),
        false => (dom0, format!("/local/domain/5/{payload}")),
    };
    wire::emit(&mut message, *op, 1, tx, &[payload.as_bytes()]).unwrap();
    server.feed(conn, &message).unwrap();
    output(server, dom0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_a_guest_sees_is_the_same_on_both_sides(
        before in prop::collection::vec((any::<bool>(), request()), 0..25),
        within in prop::option::of(prop::collection::vec((0..4_u8, request()), 0..12)),
        after in prop::collection::vec((any::<bool>(), request()), 0..25),
    ) {
        let (mut old, dom0, guest) = with_guest(Limits::DEFAULT, DomId(5));
        // Domain 7 means nobody there.
        ask(&mut old, dom0, 0, XS_SET_PERMS, "/local/domain/5\0n5\0");
        let conns = [dom0, guest];
        for (by_guest, request) in &before {
            act(&mut old, conns, *by_guest, 0, request);
        }
        let mut tx = None;
        if let Some(within) = &within {
            output(&mut old, guest);
            let id = start(&mut old, guest);
            for (by, request) in within {
                // Mostly the transaction, and sometimes one who interferes.
                act(&mut old, conns, *by > 0, if *by > 0 { id } else { 0 }, request);
            }
            tx = Some(id);
        }
        let stream = leave(&old, DomId(5), guest, &[]);
        let mut new = Server::new();
        let conn = new.load_domain(&stream, DomId(5)).unwrap().unwrap().conn;
        new.introduce(DomId(5)).unwrap();
        let there = [new.connect_socket(), conn];
        check(&mut new);
        prop_assert_eq!(nodes(&old, DomId(5)), nodes(&new, DomId(5)));
        prop_assert_eq!(output(&mut old, guest), output(&mut new, conn));
        if let Some(tx) = tx {
            let end = ask(&mut old, guest, tx, XS_TRANSACTION_END, "T\0");
            prop_assert_eq!(end, ask(&mut new, conn, tx, XS_TRANSACTION_END, "T\0"));
            prop_assert_eq!(nodes(&old, DomId(5)), nodes(&new, DomId(5)));
            // The document tells nodes, not requests: of what was made with its parents, the parents' events come as well, and
            // of what was removed with its parent, the parent's alone.
            let also = output(&mut new, conn);
            for (_, event) in output(&mut old, guest) {
                let (path, token) = event.split_once('\0').unwrap();
                let about = |(_, other): &(XsType, String)| {
                    let (above, other) = other.split_once('\0').unwrap();
                    token == other && path.starts_with(above)
                };
                prop_assert!(also.iter().any(about), "{:?} is missing in {:?}", event, also);
            }
        }
        for (by_guest, request) in &after {
            act(&mut old, conns, *by_guest, 0, request);
            act(&mut new, there, *by_guest, 0, request);
        }
        prop_assert_eq!(output(&mut old, guest), output(&mut new, conn));
        prop_assert_eq!(nodes(&old, DomId(5)), nodes(&new, DomId(5)));
        check(&mut new);
    }

    /// Any byte of a guest's stream, changed: refused without a trace, or a server that is whole.
    #[test]
    fn a_changed_stream_leaves_nothing_half_done(
        before in prop::collection::vec((any::<bool>(), request()), 0..15),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..3),
    ) {
        let (mut old, dom0, guest) = with_guest(Limits::DEFAULT, DomId(5));
        let id = start(&mut old, guest);
        for (number, (by_guest, request)) in (0..).zip(&before) {
            act(&mut old, [dom0, guest], *by_guest, if number % 3 == 0 { id } else { 0 }, request);
        }
        let mut stream = leave(&old, DomId(5), guest, &[]);
        for (at, xor) in changes {
            let at = at.index(stream.len());
            stream[at] ^= xor;
        }
        let mut new = refused::world();
        let was = refused::state(&new);
        if new.load_domain(&stream, DomId(9)).is_err() {
            prop_assert_eq!(was, refused::state(&new));
        }
        check(&mut new);
    }
}

#[test]
fn only_a_domain_s_own_ring_leaves_with_it() {
    let (server, dom0, guest) = with_guest(Limits::DEFAULT, DomId(5));
    for (domid, conn) in [(DomId(5), dom0), (DomId(6), guest)] {
        let by = Conn::Ring {
            domid,
            target: None,
            port: Port(3),
        };
        let known = HostConn {
            conn,
            by,
            unfed: &[],
            unique_id: None,
        };
        let saved = server.save_domain(&mut Vec::new(), domid, Some(&known));
        assert!(saved.is_err());
    }
    // A stream without a ring is one of nodes.
    let mut stream = Vec::new();
    server.save_domain(&mut stream, DomId(5), None).unwrap();
    let first = Reader::new(&stream).unwrap().next().unwrap().unwrap();
    assert!(matches!(first, Record::Domain(_)));
    let mut new = Server::new();
    assert!(new.load_domain(&stream, DomId(5)).unwrap().is_none());
    check(&mut new);
}
