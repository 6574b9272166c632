//! The protocol on the wire: what each request is answered, byte by byte.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod replies;
mod support;
mod watches;

use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_DIRECTORY, XS_DIRECTORY_PART, XS_ERROR, XS_GET_DOMAIN_PATH, XS_GET_FEATURE,
    XS_GET_PERMS, XS_INTRODUCE, XS_IS_DOMAIN_INTRODUCED, XS_MKDIR, XS_READ, XS_RELEASE, XS_RESUME,
    XS_RM, XS_SET_FEATURE, XS_SET_PERMS, XS_SET_TARGET, XS_TRANSACTION_END, XS_TRANSACTION_START,
    XS_UNWATCH, XS_WATCH, XS_WATCH_EVENT, XS_WRITE, XsType,
};
use cantle_abi::{DomId, Gfn, Port};
use cantle_xenstore::server::{Action, Closed, ConnId, ConnKind, FEATURES, Server};
use cantle_xenstore::wire::{TooLong, emit};
use proptest::prelude::*;

use support::{GUEST, ask, ask_in, sent, world};

#[test]
fn nodes() {
    let (mut server, _, guest) = world();
    let s = &mut server;
    assert_eq!(ask(s, guest, XS_READ, b"a\0"), "!ENOENT");
    assert_eq!(ask(s, guest, XS_WRITE, b"a/b\0value"), "OK|");
    assert_eq!(ask(s, guest, XS_READ, b"/local/domain/5/a/b\0"), "value");
    assert_eq!(ask(s, guest, XS_READ, b"a\0"), "");
    assert_eq!(ask(s, guest, XS_WRITE, b"a/b\0with\0nul"), "OK|");
    assert_eq!(ask(s, guest, XS_READ, b"a/b\0"), "with|nul");
    assert_eq!(
        ask(s, guest, XS_MKDIR, b"a/b\0"),
        "OK|",
        "it stays as it is"
    );
    assert_eq!(ask(s, guest, XS_READ, b"a/b\0"), "with|nul");
    assert_eq!(ask(s, guest, XS_MKDIR, b"a/a\0"), "OK|");
    assert_eq!(ask(s, guest, XS_DIRECTORY, b"a\0"), "a|b|");
    assert_eq!(ask(s, guest, XS_DIRECTORY, b"a/b\0"), "");
    assert_eq!(ask(s, guest, XS_GET_PERMS, b"a/b\0"), "n5|r7|");
    assert_eq!(ask(s, guest, XS_RM, b"a\0"), "OK|");
    assert_eq!(ask(s, guest, XS_RM, b"a\0"), "OK|", "its parent exists");
    assert_eq!(ask(s, guest, XS_RM, b"a/b\0"), "!ENOENT");
    assert_eq!(ask(s, guest, XS_READ, b"/local/domain/6/a\0"), "!EACCES");
    assert_eq!(ask(s, guest, XS_WRITE, b"/local\0x"), "!EACCES");
}

#[test]
fn parts_of_a_directory() {
    let (mut server, dom0, _) = world();
    let s = &mut server;
    for name in ["x/one", "x/two", "x/three"] {
        ask(s, dom0, XS_WRITE, format!("/{name}\0").as_bytes());
    }
    let whole = ask(s, dom0, XS_DIRECTORY_PART, b"/x\x000\0");
    let (generation, list) = whole.split_once('|').unwrap();
    assert!(generation.parse::<u64>().is_ok());
    assert_eq!(list, "one|three|two||");
    let rest = ask(s, dom0, XS_DIRECTORY_PART, b"/x\x004\0");
    assert_eq!(rest, format!("{generation}|three|two||"));
    assert_eq!(
        ask(s, dom0, XS_DIRECTORY_PART, b"/x\x0014\0"),
        format!("{generation}||")
    );
    ask(s, dom0, XS_WRITE, b"/x/four\0");
    let later = ask(s, dom0, XS_DIRECTORY_PART, b"/x\x000\0");
    assert!(!later.starts_with(generation), "the list has changed");
    assert_eq!(ask(s, dom0, XS_DIRECTORY_PART, b"/x\0-1\0"), "!EINVAL");
    assert_eq!(ask(s, dom0, XS_DIRECTORY_PART, b"/x\0"), "!EINVAL");
}

#[test]
fn transactions() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let first: u32 = ask(s, guest, XS_TRANSACTION_START, b"\0")
        .trim_end_matches('|')
        .parse()
        .unwrap();
    assert_ne!(first, 0);
    assert_eq!(
        ask_in(s, guest, XS_TRANSACTION_START, first, b"\0"),
        "!EBUSY"
    );
    assert_eq!(ask_in(s, guest, XS_WRITE, first, b"a\0one"), "OK|");
    assert_eq!(
        ask(s, guest, XS_READ, b"a\0"),
        "!ENOENT",
        "nobody sees it yet"
    );
    assert_eq!(ask_in(s, guest, XS_READ, first, b"a\0"), "one");
    assert_eq!(
        ask_in(s, dom0, XS_READ, first, b"/a\0"),
        "!ENOENT",
        "not dom0's transaction"
    );
    assert_eq!(
        ask_in(s, guest, XS_TRANSACTION_END, first, b"X\0"),
        "!EINVAL"
    );
    assert_eq!(ask_in(s, guest, XS_TRANSACTION_END, first, b"T\0"), "OK|");
    assert_eq!(ask(s, guest, XS_READ, b"a\0"), "one");
    assert_eq!(
        ask_in(s, guest, XS_TRANSACTION_END, first, b"T\0"),
        "!ENOENT"
    );

    let second: u32 = ask(s, guest, XS_TRANSACTION_START, b"\0")
        .trim_end_matches('|')
        .parse()
        .unwrap();
    assert_eq!(ask_in(s, guest, XS_READ, second, b"a\0"), "one");
    assert_eq!(ask_in(s, guest, XS_WRITE, second, b"b\0two"), "OK|");
    assert_eq!(ask(s, dom0, XS_WRITE, b"/local/domain/5/a\0other"), "OK|");
    assert_eq!(
        ask_in(s, guest, XS_READ, second, b"a\0"),
        "one",
        "a snapshot"
    );
    assert_eq!(
        ask_in(s, guest, XS_TRANSACTION_END, second, b"T\0"),
        "!EAGAIN"
    );
    assert_eq!(ask(s, guest, XS_READ, b"b\0"), "!ENOENT");
}

#[test]
fn watches() {
    let (mut server, dom0, guest) = world();
    let mut bytes = Vec::new();
    emit(&mut bytes, XS_WATCH, 1, 0, &[b"device\0tok\0"]).unwrap();
    server.feed(guest, &bytes).unwrap();
    let event = |text: &[u8]| (XS_WATCH_EVENT, text.to_vec());
    assert_eq!(
        sent(&mut server, guest),
        [(XS_WATCH, b"OK\0".to_vec()), event(b"device\0tok\0")],
        "the acknowledgement, then the first event"
    );
    assert_eq!(
        ask(&mut server, guest, XS_WATCH, b"device\0tok\0"),
        "!EEXIST"
    );
    assert_eq!(
        ask(
            &mut server,
            guest,
            XS_WATCH,
            b"/local/domain/5/device\0tok\0"
        ),
        "!EEXIST"
    );
    ask(
        &mut server,
        dom0,
        XS_WRITE,
        b"/local/domain/5/device/vif/0\0",
    );
    ask(
        &mut server,
        dom0,
        XS_MKDIR,
        b"/local/domain/5/device/vif/0\0",
    );
    ask(&mut server, dom0, XS_WRITE, b"/local/domain/5/devices\0");
    assert_eq!(server.take_ready(), [dom0, guest]);
    assert_eq!(
        sent(&mut server, guest),
        [event(b"device/vif/0\0tok\0")],
        "once, and relative"
    );
    ask(
        &mut server,
        guest,
        XS_WATCH,
        b"/local/domain/5/device/vif/0\0deep\0",
    );
    assert_eq!(
        ask(&mut server, guest, XS_UNWATCH, b"device\0other\0"),
        "!ENOENT"
    );
    ask(&mut server, dom0, XS_RM, b"/local/domain/5/device\0");
    assert_eq!(
        sent(&mut server, guest),
        [
            event(b"device\0tok\0"),
            event(b"/local/domain/5/device/vif/0\0deep\0")
        ],
        "above by the top's name, below by its own"
    );
    assert_eq!(ask(&mut server, guest, XS_UNWATCH, b"device\0tok\0"), "OK|");
    ask(&mut server, dom0, XS_WRITE, b"/local/domain/5/device\0");
    assert_eq!(sent(&mut server, guest), []);
    for bad in [
        &b"device\0"[..],
        b"device\0tok",
        b"@no thing\0tok\0",
        b"@nothing/\0tok\0",
        b"\0tok\0",
    ] {
        assert_eq!(ask(&mut server, guest, XS_WATCH, bad), "!EINVAL");
    }
}

#[test]
fn a_watch_that_is_dropped_takes_its_waiting_events_along() {
    let (mut server, dom0, guest) = world();
    ask(&mut server, guest, XS_WATCH, b"a\0t\0");
    ask(&mut server, dom0, XS_WRITE, b"/local/domain/5/a\0");
    let mut bytes = Vec::new();
    emit(&mut bytes, XS_UNWATCH, 1, 0, &[b"a\0t\0"]).unwrap();
    server.feed(guest, &bytes).unwrap();
    assert_eq!(sent(&mut server, guest), [(XS_UNWATCH, b"OK\0".to_vec())]);
}

#[test]
fn domains() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    ask(s, dom0, XS_WATCH, b"@introduceDomain\0in\0");
    ask(s, dom0, XS_WATCH, b"@releaseDomain\0out\0");
    assert_eq!(
        ask(s, dom0, XS_GET_DOMAIN_PATH, b"12\0"),
        "/local/domain/12|"
    );
    assert_eq!(ask(s, dom0, XS_IS_DOMAIN_INTRODUCED, b"5\0"), "F|");
    assert_eq!(ask(s, dom0, XS_RESUME, b"5\0"), "!ENOENT");
    assert_eq!(ask(s, dom0, XS_RELEASE, b"5\0"), "!ENOENT");
    let mut bytes = Vec::new();
    emit(&mut bytes, XS_INTRODUCE, 1, 0, &[b"5\x001048575\x003\0"]).unwrap();
    s.feed(dom0, &bytes).unwrap();
    assert_eq!(
        sent(s, dom0),
        [
            (XS_WATCH_EVENT, b"@introduceDomain\0in\0".to_vec()),
            (XS_INTRODUCE, b"OK\0".to_vec())
        ]
    );
    let introduced = Action::Introduced {
        domid: GUEST,
        gfn: Gfn(1_048_575),
        port: Port(3),
    };
    assert_eq!(s.take_action(), Some(introduced));
    assert_eq!(ask(s, dom0, XS_IS_DOMAIN_INTRODUCED, b"5\0"), "T|");
    assert_eq!(ask(s, dom0, XS_RESUME, b"5\0"), "OK|");
    for op in [XS_INTRODUCE, XS_RELEASE, XS_RESUME, XS_CONTROL] {
        assert_eq!(ask(s, guest, op, b"5\0"), "!EACCES");
    }
    for bad in [
        &b"5\x001\0"[..],
        b"x\x001\x002\0",
        b"32752\x001\x002\0",
        b"5\x001\x00-2\0",
    ] {
        assert_eq!(ask(s, dom0, XS_INTRODUCE, bad), "!EINVAL");
    }
    assert_eq!(ask(s, dom0, XS_RELEASE, b"0\0"), "!EINVAL");
    emit(&mut bytes, XS_RELEASE, 1, 0, &[b"5\0"]).unwrap();
    s.feed(dom0, &bytes[bytes.len() - 18..]).unwrap();
    assert_eq!(
        sent(s, dom0),
        [
            (XS_WATCH_EVENT, b"@releaseDomain\0out\0".to_vec()),
            (XS_RELEASE, b"OK\0".to_vec())
        ]
    );
    assert_eq!(s.take_action(), Some(Action::Released { domid: GUEST }));
    assert_eq!(s.feed(guest, b"x"), Err(Closed::Unknown));
    assert_eq!(
        ask(s, dom0, XS_READ, b"/local/domain/5\0"),
        "!ENOENT",
        "its home was its own"
    );
}

#[test]
fn a_stub_domain_has_its_targets_rights_while_both_live() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let stub = s.connect(DomId(6), false);
    assert_eq!(ask(s, guest, XS_WRITE, b"mine\0value"), "OK|");
    assert_eq!(ask(s, dom0, XS_WRITE, b"/tool/shown\0value"), "OK|");
    assert_eq!(ask(s, dom0, XS_SET_PERMS, b"/tool/shown\0n0\0r5\0"), "OK|");
    let mine = b"/local/domain/5/mine\0";
    assert_eq!(ask(s, stub, XS_READ, mine), "!EACCES");
    assert_eq!(ask(s, guest, XS_SET_TARGET, b"6\x005\0"), "!EACCES");
    assert_eq!(ask(s, dom0, XS_SET_TARGET, b"6\x005\0"), "!ENOENT");
    assert_eq!(s.introduce(DomId(5)), Ok(true));
    assert_eq!(s.introduce(DomId(6)), Ok(true));
    for bad in [
        &b"6\0"[..],
        b"6\0x\0",
        b"6\x000\0",
        b"0\x005\0",
        b"6\x0032752\0",
    ] {
        assert_eq!(ask(s, dom0, XS_SET_TARGET, bad), "!EINVAL");
    }
    assert_eq!(ask(s, dom0, XS_SET_TARGET, b"6\x005\0"), "OK|");
    let later = s.connect(DomId(6), false);
    for stub in [stub, later] {
        assert_eq!(ask(s, stub, XS_READ, mine), "value");
        assert_eq!(ask(s, stub, XS_READ, b"/tool/shown\0"), "value");
        assert_eq!(ask(s, stub, XS_WRITE, b"/tool/shown\0x"), "!EACCES");
        assert_eq!(ask(s, stub, XS_WRITE, b"/local/domain/5/its\0x"), "OK|");
        assert_eq!(
            ask(s, stub, XS_SET_PERMS, b"/local/domain/5/mine\0r5\0"),
            "OK|"
        );
        assert_eq!(
            ask(s, stub, XS_SET_PERMS, b"/local/domain/5/mine\0n6\0"),
            "!EPERM"
        );
    }
    assert_eq!(
        ask(s, dom0, XS_GET_PERMS, b"/local/domain/5/its\0"),
        "n6|r7|",
        "what it makes is its own"
    );
    assert_eq!(ask(s, dom0, XS_RELEASE, b"5\0"), "OK|");
    assert_eq!(ask(s, stub, XS_READ, b"/tool/shown\0"), "!EACCES");
    assert_eq!(s.introduce(DomId(5)), Ok(true));
    ask(s, dom0, XS_SET_PERMS, b"/tool/shown\0n0\0r5\0");
    for stub in [stub, s.connect(DomId(6), false)] {
        assert_eq!(
            ask(s, stub, XS_READ, b"/tool/shown\0"),
            "!EACCES",
            "the next domain of that number is not its target"
        );
    }
}

#[test]
fn where_relative_paths_begin() {
    let (mut server, dom0, _) = world();
    let s = &mut server;
    let socket = s.connect_socket();
    assert_eq!(ask(s, socket, XS_WRITE, b"foo/bar\0value"), "OK|");
    let home = b"/local/domain/0/foo/bar\0";
    assert_eq!(
        ask(s, socket, XS_READ, home),
        "value",
        "as xenstored has it"
    );
    assert_eq!(ask(s, socket, XS_WATCH, b"foo\0t\0"), "OK|");
    ask(s, dom0, XS_RM, b"/local/domain/0/foo\0");
    assert_eq!(sent(s, socket), [(XS_WATCH_EVENT, b"foo\0t\0".to_vec())]);
    let ring = s.connect_as(ConnKind::Ring, GUEST, false);
    assert_eq!(ask(s, ring, XS_WRITE, b"foo\0"), "OK|");
    assert_eq!(ask(s, socket, XS_DIRECTORY, b"/local/domain/5\0"), "foo|");
    let kinds = [socket, ring].map(|conn| (s.kind(conn), s.domid(conn)));
    assert_eq!(kinds[0], (Some(ConnKind::Socket), Some(DomId::DOM0)));
    assert_eq!(kinds[1], (Some(ConnKind::Ring), Some(GUEST)));
}

#[test]
fn a_privileged_domain_beside_domain_0() {
    let (mut server, _, _) = world();
    let s = &mut server;
    let before = s.connect(DomId(6), false);
    s.set_privileged(DomId(6));
    let after = s.connect(DomId(6), false);
    for conn in [before, after] {
        assert_eq!(ask(s, conn, XS_GET_PERMS, b"/local/domain/5\0"), "n5|r7|");
        assert_eq!(ask(s, conn, XS_INTRODUCE, b"5\x001\x002\0"), "OK|");
    }
    s.release(DomId(6)).unwrap();
    let heir = s.connect(DomId(6), false);
    assert_eq!(ask(s, heir, XS_INTRODUCE, b"5\x001\x002\0"), "!EACCES");
}

#[test]
fn features_are_set_before_a_domain_is_introduced() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let all = format!("{FEATURES}|");
    for (conn, payload, answer) in [
        (guest, &b""[..], all.as_str()),
        (dom0, b"", &all),
        (dom0, b"5\0", &all),
        (guest, b"5\0", "!EACCES"),
        (dom0, b"x\0", "!EINVAL"),
        (dom0, b"5\x005\0", "!EINVAL"),
        (dom0, b"32752\0", "!ENOENT"),
    ] {
        assert_eq!(ask(s, conn, XS_GET_FEATURE, payload), answer, "{payload:?}");
    }
    for (conn, payload, answer) in [
        (guest, &b"5\x002\0"[..], "!EACCES"),
        (dom0, b"5\0", "!EINVAL"),
        (dom0, b"5\0x\0", "!EINVAL"),
        (dom0, b"5\x0016\0", "!EINVAL"),
        (dom0, b"0\x002\0", "!EBUSY"),
        (dom0, b"32752\x002\0", "!ENOENT"),
        (dom0, b"5\x002\0", "OK|"),
    ] {
        assert_eq!(ask(s, conn, XS_SET_FEATURE, payload), answer, "{payload:?}");
    }
    assert_eq!(ask(s, guest, XS_GET_FEATURE, b""), "2|");
    s.introduce(GUEST).unwrap();
    assert_eq!(ask(s, dom0, XS_SET_FEATURE, b"5\x004\0"), "!EBUSY");
    assert_eq!(ask(s, dom0, XS_GET_FEATURE, b"5\0"), "2|");
    s.release(GUEST).unwrap();
    assert_eq!(s.features(GUEST), FEATURES, "the next one is offered all");
}

#[test]
fn everybody_is_named_in_permissions_where_that_is_offered() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let other = s.connect(DomId(6), false);
    ask(s, guest, XS_WRITE, b"a\0value");
    for bad in [&b"a\0n32757\0"[..], b"a\0n5\0r32758\0"] {
        assert_eq!(ask(s, guest, XS_SET_PERMS, bad), "!EINVAL");
    }
    assert_eq!(ask(s, guest, XS_SET_PERMS, b"a\0n5\0n7\0r32757\0"), "OK|");
    assert_eq!(ask(s, guest, XS_GET_PERMS, b"a\0"), "n5|n7|r32757|");
    assert_eq!(ask(s, other, XS_READ, b"/local/domain/5/a\0"), "value");
    let seven = s.connect(DomId(7), false);
    assert_eq!(ask(s, seven, XS_READ, b"/local/domain/5/a\0"), "!EACCES");
    assert_eq!(ask(s, dom0, XS_SET_FEATURE, b"6\x006\0"), "OK|");
    ask(s, dom0, XS_SET_PERMS, b"/local/domain/5/a\0n6\0");
    assert_eq!(
        ask(s, other, XS_SET_PERMS, b"/local/domain/5/a\0n6\0r32757\0"),
        "!EINVAL"
    );
}

#[test]
fn a_domain_that_is_introduced_again_starts_afresh() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let ring = s.connect_as(ConnKind::Ring, GUEST, false);
    let watcher = s.connect_socket();
    assert_eq!(ask(s, dom0, XS_INTRODUCE, b"5\0-1\x003\0"), "OK|");
    ask(s, watcher, XS_WATCH, b"@introduceDomain\0t\0");
    for conn in [ring, guest] {
        assert_eq!(ask(s, conn, XS_WATCH, b"a\0t\0"), "OK|");
        assert_eq!(ask(s, conn, XS_TRANSACTION_START, b"\0"), "1|");
        assert_eq!(s.feed(conn, b"half a"), Ok(6));
    }
    ask(s, dom0, XS_WRITE, b"/local/domain/5/a\0");
    assert_eq!(
        ask(
            s,
            dom0,
            XS_INTRODUCE,
            b"5\x0018446744073709551615\x004\0reserved"
        ),
        "OK|"
    );
    assert_eq!(sent(s, watcher), [], "nobody is told");
    for port in [3, 4] {
        let introduced = Action::Introduced {
            domid: GUEST,
            gfn: Gfn(u64::MAX),
            port: Port(port),
        };
        assert_eq!(s.take_action(), Some(introduced));
    }
    assert!(!s.has_output(ring));
    assert_eq!(ask_in(s, ring, XS_READ, 1, b"a\0"), "!ENOENT");
    assert_eq!(ask(s, ring, XS_WATCH, b"a\0t\0"), "OK|");
    assert!(s.has_output(guest), "no ring, and left alone");
    assert_eq!(ask(s, dom0, XS_CONTROL, b"check\0"), "OK|");
}

#[test]
fn control_and_what_is_unknown() {
    let (mut server, dom0, guest) = world();
    assert!(ask(&mut server, dom0, XS_CONTROL, b"help\0").starts_with("check"));
    assert_eq!(ask(&mut server, dom0, XS_CONTROL, b"check\0"), "OK|");
    assert_eq!(ask(&mut server, dom0, XS_CONTROL, b"nonsense\0"), "!EINVAL");
    for op in [XS_WATCH_EVENT, XS_ERROR, XsType(20), XsType(0xffff)] {
        assert_eq!(ask(&mut server, guest, op, b"a\0"), "!ENOSYS");
    }
}

#[test]
fn payloads_of_a_wrong_form_are_refused_and_the_connection_lives() {
    let (mut server, _, guest) = world();
    for op in [
        XS_READ,
        XS_MKDIR,
        XS_RM,
        XS_DIRECTORY,
        XS_GET_PERMS,
        XS_WRITE,
        XS_SET_PERMS,
    ] {
        for bad in [&b""[..], b"a", b"a\xff\0", b"a b\0"] {
            assert_eq!(
                ask(&mut server, guest, op, bad),
                "!EINVAL",
                "{op:?} {bad:?}"
            );
        }
    }
    for op in [XS_READ, XS_MKDIR, XS_RM, XS_DIRECTORY, XS_GET_PERMS] {
        assert_eq!(ask(&mut server, guest, op, b"a\0b\0"), "!EINVAL", "{op:?}");
    }
    assert_eq!(
        ask(&mut server, guest, XS_SET_PERMS, b"a\0n32753\0"),
        "!EINVAL"
    );
}

#[test]
fn a_message_too_long_ends_its_connection_only() {
    let (mut server, dom0, guest) = world();
    let mut bytes = Vec::new();
    emit(&mut bytes, XS_READ, 1, 0, &[b"a\0"]).unwrap();
    bytes[12..16].copy_from_slice(&4097_u32.to_le_bytes());
    assert_eq!(server.feed(guest, &bytes[..10]), Ok(10));
    let too_long = Closed::Protocol(TooLong { len: 4097 });
    assert_eq!(server.feed(guest, &bytes[10..]), Err(too_long));
    assert_eq!(server.feed(guest, &bytes), Err(Closed::Unknown));
    assert!(!server.is_connected(guest));
    assert_eq!(ask(&mut server, dom0, XS_READ, b"/tool\0"), "");
}

proptest! {
    /// However the bytes are cut, the replies are the same.
    #[test]
    fn cuts_do_not_matter(cuts in prop::collection::vec(1..60_usize, 1..80)) {
        let requests = |server: &mut Server, guest: ConnId, mut cuts: Box<dyn Iterator<Item = usize>>| {
            let mut bytes = Vec::new();
            for number in 0..40_u32 {
                let path = format!("n{}\0", number % 7);
                emit(&mut bytes, XS_WRITE, number, 0, &[path.as_bytes(), &vec![b'v'; number as usize]]).unwrap();
                emit(&mut bytes, XS_READ, number, 0, &[path.as_bytes()]).unwrap();
            }
            let mut rest = bytes.as_slice();
            let mut replies = Vec::new();
            while !rest.is_empty() {
                let (now, _) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                // What it does not take, it takes when the replies have been read.
                let taken = server.feed(guest, now).unwrap();
                rest = &rest[taken..];
                replies.extend(sent(server, guest));
            }
            replies
        };
        let (mut whole, _, guest) = world();
        let wanted = requests(&mut whole, guest, Box::new(std::iter::repeat(usize::MAX)));
        prop_assert_eq!(wanted.len(), 80);
        let (mut cut, _, guest) = world();
        let cuts = cuts.into_iter().cycle();
        prop_assert_eq!(requests(&mut cut, guest, Box::new(cuts)), wanted);
    }

    /// No bytes do harm: what is no message ends the connection, and the store's accounts hold.
    #[test]
    fn no_bytes_do_harm(
        messages in prop::collection::vec((0..24_u32, 0..3_u32, "[a-c/@0-9\\x00TFnrwb-]{0,24}"), 0..60),
        tail in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let (mut server, dom0, guest) = world();
        for (kind, tx, payload) in &messages {
            let mut bytes = Vec::new();
            emit(&mut bytes, XsType(*kind), 1, *tx, &[payload.as_bytes()]).unwrap();
            prop_assert_eq!(server.feed(guest, &bytes), Ok(bytes.len()));
            sent(&mut server, guest);
        }
        let _ = server.feed(guest, &tail);
        prop_assert_eq!(ask(&mut server, dom0, XS_CONTROL, b"check\0"), "OK|");
        prop_assert_eq!(ask(&mut server, dom0, XS_GET_PERMS, b"/\0"), "n0|");
    }
}
