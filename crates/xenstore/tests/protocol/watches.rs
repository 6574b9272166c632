//! Watches: which events there are, for whom, how often, and in which order.

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{
    XS_MKDIR, XS_RELEASE, XS_RESET_WATCHES, XS_RESUME, XS_RM, XS_SET_FEATURE, XS_SET_PERMS,
    XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WATCH_EVENT, XS_WRITE,
};
use cantle_xenstore::server::{ConnId, Server};

use crate::support::{GUEST, ask, ask_in, sent, world};

/// The events that wait, as path and token.
fn events(server: &mut Server, conn: ConnId) -> Vec<String> {
    sent(server, conn)
        .into_iter()
        .filter(|(kind, _)| *kind == XS_WATCH_EVENT)
        .map(|(_, payload)| {
            let text = String::from_utf8(payload).unwrap();
            text.trim_end_matches('\0').replace('\0', " ")
        })
        .collect()
}

/// Sets watches given as path, token and perhaps depth, and forgets their first events.
fn watch(server: &mut Server, conn: ConnId, watches: &[&str]) {
    for watch in watches {
        let payload = format!("{}\0", watch.replace(' ', "\0"));
        assert_eq!(ask(server, conn, XS_WATCH, payload.as_bytes()), "OK|");
    }
    sent(server, conn);
}

#[test]
fn a_depth_limits_what_a_watch_is_about() {
    let (mut server, dom0, _) = world();
    let s = &mut server;
    let watcher = s.connect_socket();
    watch(
        s,
        watcher,
        &[
            "/t t0 0",
            "/t t1 1",
            "/t t2 2",
            "/t all",
            "/ r0 0",
            "/ r1 1",
            "/ r9 99999",
        ],
    );
    for (path, told) in [
        (
            "/t",
            vec!["/t r1", "/t r9", "/t t0", "/t t1", "/t t2", "/t all"],
        ),
        ("/t/a", vec!["/t/a r9", "/t/a t1", "/t/a t2", "/t/a all"]),
        ("/t/a/b", vec!["/t/a/b r9", "/t/a/b t2", "/t/a/b all"]),
        ("/t/a/b/c", vec!["/t/a/b/c r9", "/t/a/b/c all"]),
        ("/tt", vec!["/tt r1", "/tt r9"]),
        ("/", vec!["/ r0", "/ r1", "/ r9"]),
    ] {
        for round in 0..2 {
            ask(s, dom0, XS_WRITE, format!("{path}\0{round}").as_bytes());
            assert_eq!(events(s, watcher), told, "{path}");
        }
    }
    ask(s, dom0, XS_RM, b"/t\0");
    assert_eq!(
        events(s, watcher),
        ["/t r1", "/t r9", "/t t0", "/t t1", "/t t2", "/t all"]
    );
}

#[test]
fn a_depth_hides_no_node_that_is_made_on_the_way() {
    let (mut server, dom0, _) = world();
    let s = &mut server;
    let watcher = s.connect_socket();
    watch(s, watcher, &["/t t0 0", "/t t1 1", "/t/a a0 0", "/ r0 0"]);
    ask(s, dom0, XS_WRITE, b"/t/a/b\0");
    assert_eq!(events(s, watcher), ["/t t0", "/t/a t1", "/t/a a0"]);
    ask(s, dom0, XS_WRITE, b"/t/a/c/d\0");
    assert_eq!(
        events(s, watcher),
        [""; 0],
        "what is new is beyond all of them"
    );
}

#[test]
fn a_depth_is_a_number_and_needs_the_feature() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    for bad in ["a\0t\0-1\0", "a\0t\0x\0", "a\0t\0\0", "a\0t\x001\x002\0"] {
        assert_eq!(
            ask(s, guest, XS_WATCH, bad.as_bytes()),
            "!EINVAL",
            "{bad:?}"
        );
    }
    assert_eq!(
        ask(s, guest, XS_WATCH, b"a\0t\0reserved"),
        "OK|",
        "without its NUL it is none"
    );
    assert_eq!(ask(s, guest, XS_UNWATCH, b"a\0t\0reserved"), "OK|");
    assert_eq!(ask(s, dom0, XS_SET_FEATURE, b"9\x000\0"), "OK|");
    let plain = s.connect(DomId(9), false);
    assert_eq!(ask(s, plain, XS_WATCH, b"a\0t\x001\0"), "!EINVAL");
    assert_eq!(ask(s, plain, XS_WATCH, b"@releaseDomain/5\0t\0"), "!EINVAL");
    assert_eq!(ask(s, plain, XS_WATCH, b"a\0t\0"), "OK|");
    assert_eq!(ask(s, plain, XS_WATCH, b"@releaseDomain\0t\0"), "OK|");
    // A watch is known by path and token, whatever its depth.
    assert_eq!(ask(s, guest, XS_WATCH, b"a\0t\x001\0"), "OK|");
    assert_eq!(ask(s, guest, XS_WATCH, b"a\0t\0"), "!EEXIST");
    assert_eq!(ask(s, guest, XS_UNWATCH, b"a\0t\0"), "OK|");
}

#[test]
fn special_watches_of_all_domains_and_of_one() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let watcher = s.connect_socket();
    let names = [
        "@introduceDomain in",
        "@introduceDomain in0 0",
        "@introduceDomain in1 1",
        "@introduceDomain/6 in6",
        "@releaseDomain out",
        "@releaseDomain out1 1",
        "@releaseDomain/5 out5",
        "@releaseDomain/6 out6",
        "@anything any",
        "/ root",
    ];
    watch(s, watcher, &names);
    watch(s, guest, &names[..9]);
    s.introduce(DomId(6)).unwrap();
    assert_eq!(
        events(s, watcher),
        [
            "@introduceDomain in",
            "@introduceDomain/6 in1",
            "@introduceDomain/6 in6"
        ]
    );
    s.introduce(GUEST).unwrap();
    assert_eq!(
        events(s, watcher),
        ["@introduceDomain in", "@introduceDomain/5 in1"]
    );
    assert_eq!(s.introduce(GUEST), Ok(false));
    assert_eq!(events(s, watcher), [""; 0], "it was known");
    let six = [
        "@releaseDomain out",
        "@releaseDomain/6 out1",
        "@releaseDomain/6 out6",
    ];
    assert!(s.domain_shutdown(DomId(6)));
    assert_eq!(events(s, watcher), six);
    assert!(!s.domain_shutdown(DomId(6)));
    assert_eq!(events(s, watcher), [""; 0], "it was told");
    assert_eq!(ask(s, dom0, XS_RESUME, b"6\0"), "OK|");
    assert!(s.domain_shutdown(DomId(6)));
    assert_eq!(events(s, watcher), six);
    assert_eq!(events(s, guest), [""; 0], "it may not know");
    ask(s, dom0, XS_SET_PERMS, b"@releaseDomain\0n0\0r5\0");
    assert_eq!(ask(s, dom0, XS_RELEASE, b"6\0"), "OK|");
    assert_eq!(events(s, watcher), six);
    assert_eq!(events(s, guest), six);
    assert!(!s.domain_shutdown(DomId(6)));
    // The domain's own watches, and it, are gone before its end is told.
    assert_eq!(ask(s, dom0, XS_RELEASE, b"5\0"), "OK|");
    assert_eq!(
        events(s, watcher),
        [
            "/local/domain/5 root",
            "@releaseDomain out",
            "@releaseDomain/5 out1",
            "@releaseDomain/5 out5"
        ]
    );
}

#[test]
fn each_change_is_one_event_in_the_order_of_the_changes() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    watch(s, guest, &["a one", "a two", "/local/domain/5/a/b three"]);
    for _ in 0..3 {
        ask(s, dom0, XS_WRITE, b"/local/domain/5/a\0same");
    }
    ask(s, dom0, XS_WRITE, b"/local/domain/5/a/b\0");
    ask(s, dom0, XS_WRITE, b"/local/domain/5/c\0");
    ask(s, dom0, XS_MKDIR, b"/local/domain/5/a\0");
    ask(s, dom0, XS_SET_PERMS, b"/local/domain/5/a\0n5\0r7\0");
    let pair = ["a one", "a two"];
    let wanted = [
        &pair[..],
        &pair,
        &pair,
        &["a/b one", "a/b two", "/local/domain/5/a/b three"],
        &pair,
    ];
    assert_eq!(events(s, guest), wanted.concat());
}

#[test]
fn a_transaction_is_told_when_it_is_committed_each_path_once() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    watch(s, guest, &["a t"]);
    for (word, told) in [(&b"F\0"[..], vec![]), (b"T\0", vec!["a/x t", "a/y t"])] {
        let tx = ask(s, dom0, XS_TRANSACTION_START, b"\0");
        let tx: u32 = tx.trim_end_matches('|').parse().unwrap();
        for path in ["x", "y", "x"] {
            let payload = format!("/local/domain/5/a/{path}\0");
            assert_eq!(ask_in(s, dom0, XS_WRITE, tx, payload.as_bytes()), "OK|");
        }
        assert_eq!(events(s, guest), [""; 0]);
        assert_eq!(ask_in(s, dom0, XS_TRANSACTION_END, tx, word), "OK|");
        assert_eq!(events(s, guest), told);
    }
}

#[test]
fn what_a_transaction_does_on_the_way_is_not_told() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    ask(s, dom0, XS_WRITE, b"/x/old/leaf\0");
    watch(s, guest, &["/x all", "/x/old/leaf leaf", "/x/new/leaf new"]);
    let open = |s: &mut Server| -> u32 {
        let tx = ask(s, dom0, XS_TRANSACTION_START, b"\0");
        tx.trim_end_matches('|').parse().unwrap()
    };
    // Readable in the transaction only: neither before nor after.
    let tx = open(s);
    for (op, payload) in [
        (XS_WRITE, &b"/x/secret\0"[..]),
        (XS_SET_PERMS, b"/x/secret\0n0\0r5\0"),
        (XS_SET_PERMS, b"/x/secret\0n0\0"),
        (XS_WRITE, b"/x/gone/leaf\0"),
        (XS_SET_PERMS, b"/x/gone\0r0\0"),
        (XS_SET_PERMS, b"/x/gone/leaf\0r0\0"),
        (XS_RM, b"/x/gone\0"),
        (XS_SET_PERMS, b"/x/old/leaf\0r0\0"),
        (XS_RM, b"/x/old\0"),
    ] {
        assert_eq!(ask_in(s, dom0, op, tx, payload), "OK|");
    }
    assert_eq!(ask_in(s, dom0, XS_TRANSACTION_END, tx, b"T\0"), "OK|");
    assert_eq!(events(s, guest), [""; 0]);
    // Readable at the end.
    let tx = open(s);
    for (op, payload) in [
        (XS_WRITE, &b"/x/new/leaf\0"[..]),
        (XS_RM, b"/x/new\0"),
        (XS_WRITE, b"/x/new/leaf\0"),
        (XS_SET_PERMS, b"/x/new/leaf\0n0\0r5\0"),
    ] {
        assert_eq!(ask_in(s, dom0, op, tx, payload), "OK|");
    }
    assert_eq!(ask_in(s, dom0, XS_TRANSACTION_END, tx, b"T\0"), "OK|");
    assert_eq!(events(s, guest), ["/x/new/leaf all", "/x/new/leaf new"]);
}

#[test]
fn a_removed_subtree_is_told_to_those_who_could_see_what_was_in_it() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    for path in ["/x/open/leaf", "/x/closed/leaf", "/x/closed/listed/leaf"] {
        ask(s, dom0, XS_WRITE, format!("{path}\0").as_bytes());
    }
    for path in ["/x/open", "/x/open/leaf", "/x/closed/listed"] {
        ask(
            s,
            dom0,
            XS_SET_PERMS,
            format!("{path}\0n0\0r5\0").as_bytes(),
        );
    }
    watch(
        s,
        guest,
        &[
            "/x top",
            "/x/open open",
            "/x/open/leaf leaf 0",
            "/x/open/none none",
            "/x/closed closed",
            "/x/closed/leaf hidden",
            "/x/closed/listed/leaf listed",
            "/x/opening beside",
        ],
    );
    ask(s, dom0, XS_RM, b"/x\0");
    assert_eq!(
        events(s, guest),
        [
            "/x/closed/listed/leaf listed",
            "/x/open open",
            "/x/open/leaf leaf"
        ]
    );
}

#[test]
fn a_reset_takes_waiting_events_along() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    watch(s, guest, &["a t"]);
    ask(s, dom0, XS_WRITE, b"/local/domain/5/a\0");
    let mut bytes = Vec::new();
    cantle_xenstore::wire::emit(&mut bytes, XS_RESET_WATCHES, 1, 0, &[b"\0"]).unwrap();
    s.feed(guest, &bytes).unwrap();
    assert_eq!(sent(s, guest), [(XS_RESET_WATCHES, b"OK\0".to_vec())]);
}

#[test]
fn beyond_its_limit_a_watch_has_one_event_that_says_to_look() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    watch(s, guest, &["a one", "b two"]);
    for number in 0..4000 {
        ask(
            s,
            dom0,
            XS_WRITE,
            format!("/local/domain/5/a/{number}\0").as_bytes(),
        );
    }
    ask(s, dom0, XS_WRITE, b"/local/domain/5/b/x\0");
    let told = events(s, guest);
    assert!(told.len() < 3000, "{}", told.len());
    assert_eq!(
        told[told.len() - 2..],
        ["a one", "b two"],
        "each its own path"
    );
    assert!(
        told[..told.len() - 2]
            .iter()
            .all(|event| event.starts_with("a/"))
    );
    ask(s, dom0, XS_WRITE, b"/local/domain/5/b/x\0");
    assert_eq!(
        events(s, guest),
        ["b/x two"],
        "with room again, each change"
    );
}
