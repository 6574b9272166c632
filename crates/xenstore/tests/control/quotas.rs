//! Quotas: their names and values, whom they bind, and what is told of them.

use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_GET_QUOTA, XS_INTRODUCE, XS_MKDIR, XS_READ, XS_RELEASE, XS_RM, XS_SET_PERMS,
    XS_SET_QUOTA, XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WRITE,
};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::server::{ConnId, Server};
use cantle_xenstore::{Quota, TxId, wire};

use crate::support::{GUEST, ask, table, world};

#[test]
fn values_by_name() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let names = "nodes node-size permissions path-depth watches transactions transaction-nodes outstanding memory \
                 soft-memory|";
    let defaults = [
        ("", names),
        ("|", names),
        ("nodes|", "1000|"),
        ("node-size|", "2048|"),
        ("permissions|", "5|"),
        ("node-permissions|", "5|"),
        ("path-depth|", "64|"),
        ("watches|", "128|"),
        ("transactions|", "10|"),
        ("transaction-nodes|", "1024|"),
        ("outstanding|", "20|"),
        ("memory|", "2621440|"),
        ("soft-memory|", "2097152|"),
        ("5|nodes|", "1000|"),
        ("0|nodes|", "1000|"),
        ("5|nonsense|", "!EINVAL"),
        ("nonsense|", "!EINVAL"),
        ("nodes", "!EINVAL"),
        ("7|nodes|", "!ENOENT"),
        ("x|nodes|", "!EINVAL"),
        ("65536|nodes|", "!EINVAL"),
        ("32752|nodes|", "!EINVAL"),
        ("5|nodes|x|", "!EINVAL"),
    ];
    table(s, dom0, XS_GET_QUOTA, &defaults);
    let sets = [
        ("nodes|7|", "OK|"),
        ("5|nodes|3|", "OK|"),
        ("5|watches|0|", "OK|"),
        ("5|permissions|4294967295|", "OK|"),
        ("nodes|", "!EINVAL"),
        ("|", "!EINVAL"),
        ("", "!EINVAL"),
        ("nonsense|1|", "!EINVAL"),
        ("nodes||", "!EINVAL"),
        ("nodes|-1|", "!EINVAL"),
        ("nodes|4294967296|", "!EINVAL"),
        ("nodes|1x|", "!EINVAL"),
        ("nodes|+1|", "!EINVAL"),
        ("nodes|1", "!EINVAL"),
        ("x|nodes|1|", "!EINVAL"),
        ("7|nonsense|1|", "!EINVAL"),
        ("5|nodes|1|x|", "!EINVAL"),
    ];
    table(s, dom0, XS_SET_QUOTA, &sets);
    let after = [
        ("nodes|", "7|"),
        ("5|nodes|", "3|"),
        ("5|watches|", "0|"),
        ("5|node-permissions|", "4294967295|"),
        ("0|nodes|", "1000|"),
        ("7|nodes|", "!ENOENT"),
    ];
    table(s, dom0, XS_GET_QUOTA, &after);
    table(
        s,
        guest,
        XS_GET_QUOTA,
        &[("", "!EACCES"), ("5|nodes|", "!EACCES")],
    );
    table(s, guest, XS_SET_QUOTA, &[("5|nodes|9|", "!EACCES")]);
}

#[test]
fn a_new_domain_gets_the_defaults_of_its_time_and_keeps_its_own_until_it_is_gone() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    table(s, dom0, XS_SET_QUOTA, &[("watches|1|", "OK|")]);
    table(s, dom0, XS_GET_QUOTA, &[("5|watches|", "128|")]);
    // Set before the domain is known.
    table(s, dom0, XS_SET_QUOTA, &[("6|watches|2|", "OK|")]);
    table(s, dom0, XS_INTRODUCE, &[("6|1|1|", "OK|")]);
    let six = s.connect(DomId(6), false);
    let watch = |s: &mut Server, conn: ConnId, path: &str| {
        s.request(
            conn,
            XS_WATCH,
            TxId::NONE,
            format!("{path}\0t\0").as_bytes(),
        )
        .map(drop)
    };
    assert!(watch(s, six, "a").is_ok() && watch(s, six, "b").is_ok());
    assert_eq!(watch(s, six, "c"), Err(Errno::E2BIG));
    s.disconnect(six);
    table(s, dom0, XS_GET_QUOTA, &[("6|watches|", "2|")]);
    table(s, dom0, XS_RELEASE, &[("6|", "OK|")]);
    table(s, dom0, XS_GET_QUOTA, &[("6|watches|", "!ENOENT")]);
    let six = s.connect(DomId(6), false);
    table(s, dom0, XS_GET_QUOTA, &[("6|watches|", "1|")]);
    assert!(watch(s, six, "a").is_ok());
    assert!(watch(s, six, "b").is_err());
    assert!(watch(s, guest, "a").is_ok() && watch(s, guest, "b").is_ok());
}

#[test]
fn a_quota_refuses_and_says_which_it_was() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let rows = [
        ("5|nodes|3|", "OK|"),
        ("5|node-size|10|", "OK|"),
        ("5|permissions|2|", "OK|"),
        ("5|path-depth|5|", "OK|"),
        ("5|watches|1|", "OK|"),
        ("5|transactions|1|", "OK|"),
    ];
    table(s, dom0, XS_SET_QUOTA, &rows);
    let path = |name: &str| format!("{name}|");
    let deep = path("a/b/c");
    let mkdir = [
        ("a|", "OK|"),
        (deep.as_str(), "!ENOSPC"),
        ("b|", "OK|"),
        ("c|", "!ENOSPC"),
    ];
    table(s, guest, XS_MKDIR, &mkdir);
    table(
        s,
        guest,
        XS_WRITE,
        &[("a|123456", "OK|"), ("a|1234567", "!ENOSPC")],
    );
    table(
        s,
        guest,
        XS_SET_PERMS,
        &[("a|n5|r1|", "OK|"), ("a|n5|r1|r2|", "!ENOSPC")],
    );
    assert_eq!(ask(s, guest, XS_TRANSACTION_START, b"\0"), "1|");
    table(
        s,
        guest,
        XS_TRANSACTION_START,
        &[("|", "!ENOSPC"), ("|", "!ENOSPC")],
    );
    // The reply, and the first event.
    let watch =
        |s: &mut Server, payload: &[u8]| s.request(guest, XS_WATCH, TxId::NONE, payload).is_ok();
    assert!(watch(s, b"a\0t\0"));
    assert!(s.take_event(guest).is_some());
    assert!(!watch(s, b"a\0u\0"));
    assert!(!watch(s, b"a/b/c\0t\0"));
    table(s, guest, XS_UNWATCH, &[("a|t|", "OK|")]);

    let told = ask(s, dom0, XS_CONTROL, b"quota\x005\0");
    let line = |name: &str| {
        let line = told.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(told.starts_with("domain 5:\n") && told.ends_with("\n|"));
    assert_eq!(line("nodes "), "nodes : 3 (max 3) limit 3 refused 1");
    assert_eq!(
        line("node-size "),
        "node-size : 0 (max 10) limit 10 refused 1"
    );
    assert_eq!(
        line("permissions "),
        "permissions : 0 (max 2) limit 2 refused 1"
    );
    assert_eq!(
        line("path-depth "),
        "path-depth : 0 (max 4) limit 5 refused 2"
    );
    assert_eq!(line("watches "), "watches : 0 (max 1) limit 1 refused 1");
    assert_eq!(
        line("transactions "),
        "transactions : 1 (max 1) limit 1 refused 2"
    );
    let hits = s
        .stats()
        .into_iter()
        .find(|each| each.domid == GUEST)
        .unwrap()
        .quota_hits;
    assert_eq!(hits, 8);

    let max = ask(s, dom0, XS_CONTROL, b"quota\0max\0");
    assert!(max.contains("\nnodes            :        3\n"), "{max}");
    let max = ask(s, dom0, XS_CONTROL, b"quota\0max\0-r\0");
    assert!(max.contains("\nnodes            :        0\n"), "{max}");
    // dom0 is not bound, nor is what it does counted there.
    table(
        s,
        dom0,
        XS_WRITE,
        &[("/local/domain/5/x/y/z/a/b/c|a value that is long", "OK|")],
    );
    table(s, dom0, XS_CONTROL, &[("check|", "OK|")]);
    s.release(GUEST).unwrap();
    table(
        s,
        dom0,
        XS_CONTROL,
        &[("quota|5|", "!ENOENT"), ("check|", "OK|")],
    );
}

#[test]
fn settings_by_the_operators_command() {
    let (mut server, dom0, _) = world();
    let s = &mut server;
    table(s, dom0, XS_CONTROL, &[("quota|set|nodes|12|", "OK|")]);
    table(s, dom0, XS_CONTROL, &[("quota-soft|set|memory|34|", "OK|")]);
    let rows = [
        ("nodes|", "12|"),
        ("soft-memory|", "34|"),
        ("memory|", "2621440|"),
    ];
    table(s, dom0, XS_GET_QUOTA, &rows);
    let settings = ask(s, dom0, XS_CONTROL, b"quota\0");
    assert_eq!(settings.lines().count(), 2 + Quota::COUNT - 1 + 1);
    assert!(
        settings.contains("\nnodes            :       12 nodes owned\n"),
        "{settings}"
    );
    let soft = ask(s, dom0, XS_CONTROL, b"quota-soft\0");
    assert_eq!(
        soft,
        "for new domains:\nmemory           :       34 bytes kept in all\n|"
    );
}

/// XSA-326's kind: who does not read is not listened to, and goes on where it was when it reads.
#[test]
fn outstanding_replies_stop_the_guest_that_does_not_read_them_and_nobody_else() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    table(s, dom0, XS_SET_QUOTA, &[("5|outstanding|3|", "OK|")]);
    table(s, guest, XS_WRITE, &[("a|x", "OK|")]);
    let mut bytes = Vec::new();
    for number in 0..10 {
        wire::emit(&mut bytes, XS_READ, number, 0, &[b"a\0"]).unwrap();
    }
    let one = bytes.len() / 10;
    assert_eq!(s.feed(guest, &bytes), Ok(3 * one));
    assert_eq!(s.feed(guest, &bytes[3 * one..]), Ok(0), "the same again");
    table(s, dom0, XS_READ, &[("/local/domain/5/a|", "x")]);
    // A reply of which a byte is missing is not read yet.
    let reply = 16 + 1;
    assert_eq!(s.output(guest, usize::MAX).len(), 3 * reply);
    s.consume_output(guest, reply - 1);
    assert_eq!(s.feed(guest, &bytes[3 * one..]), Ok(0));
    s.consume_output(guest, 1);
    assert_eq!(s.feed(guest, &bytes[3 * one..]), Ok(one));
    // An event counts as a reply does.
    s.consume_output(guest, 3 * reply);
    let mut watch = Vec::new();
    wire::emit(&mut watch, XS_WATCH, 0, 0, &[b"a\0t\0"]).unwrap();
    assert_eq!(s.feed(guest, &watch), Ok(watch.len()));
    assert_eq!(s.feed(guest, &bytes), Ok(one));
    table(s, dom0, XS_WRITE, &[("/local/domain/5/a/n|y", "OK|")]);
    let told = ask(s, dom0, XS_CONTROL, b"quota\x005\0");
    let line = told
        .lines()
        .find(|line| line.starts_with("outstanding"))
        .unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[2], "4", "others may still tell it of something");
    assert_eq!(
        words.last(),
        Some(&"3"),
        "counted once for each time it is stopped"
    );
    table(s, dom0, XS_CONTROL, &[("check|", "OK|")]);
}

#[test]
fn memory_counts_everything_and_refuses_with_its_own_error() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let in_use = |s: &Server| {
        s.stats()
            .into_iter()
            .find(|each| each.domid == GUEST)
            .unwrap()
            .bytes
    };
    let idle = in_use(s);
    let limit = format!("5\0memory\0{}\0", idle + 4000);
    assert_eq!(ask(s, dom0, XS_SET_QUOTA, limit.as_bytes()), "OK|");
    let long = "x".repeat(1000);
    let write = |name: &str| format!("{name}|{long}");
    assert_eq!(write("a").len(), 1002);
    table(
        s,
        guest,
        XS_WRITE,
        &[(&write("a"), "OK|"), (&write("b"), "OK|")],
    );
    // A transaction pays for its log and for what it makes, before it has committed.
    assert_eq!(ask(s, guest, XS_TRANSACTION_START, b"\0"), "1|");
    let before = in_use(s);
    assert!(
        s.request(guest, XS_MKDIR, TxId(1), b"n\0").is_ok() && in_use(s) - before > 350,
        "the log's entry, and the node that only the transaction has"
    );
    assert!(s.request(guest, XS_RM, TxId(1), b"n\0").is_ok());
    let mut answers = Vec::new();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        wire::emit(
            &mut bytes,
            XS_WRITE,
            77,
            1,
            &[b"a\0", &long.as_bytes()[..300]],
        )
        .unwrap();
        s.feed(guest, &bytes).unwrap();
        let output = s.output(guest, usize::MAX).to_vec();
        s.consume_output(guest, output.len());
        answers.push(output.ends_with(b"ENOMEM\0"));
        assert!(in_use(s) <= idle + 4000);
    }
    assert_eq!(
        answers.iter().position(|refused| *refused),
        Some(1),
        "{answers:?}"
    );
    let mut end = Vec::new();
    wire::emit(&mut end, XS_TRANSACTION_END, 77, 1, &[b"T\0"]).unwrap();
    s.feed(guest, &end).unwrap();
    assert!(s.output(guest, usize::MAX).ends_with(b"OK\0"));
    s.consume_output(guest, 100);
    // Watches pay too; and what shrinks is never refused.
    let token = "t".repeat(900);
    let watch = |name: &str| format!("{name}|{token}|");
    table(s, guest, XS_WRITE, &[(&write("c"), "OK|")]);
    table(s, guest, XS_WATCH, &[(&watch("a"), "!ENOMEM")]);
    table(
        s,
        guest,
        XS_WRITE,
        &[("c|", "OK|"), ("b|", "OK|"), (&write("b"), "OK|")],
    );
    table(s, dom0, XS_CONTROL, &[("check|", "OK|")]);
}

/// Whoever writes into a node of another is held against the owner's quota, and again when the transaction commits.
#[test]
fn nobody_brings_another_above_its_memory() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let other = s.connect(DomId(6), false);
    table(s, guest, XS_WRITE, &[("shared|x", "OK|")]);
    table(s, guest, XS_SET_PERMS, &[("shared|n5|b6|", "OK|")]);
    let in_use = |s: &Server| {
        let of_guest = s.stats().into_iter().find(|each| each.domid == GUEST);
        of_guest.unwrap().bytes
    };
    let most = in_use(s) + 1000;
    let limit = format!("5\0memory\0{most}\0");
    assert_eq!(ask(s, dom0, XS_SET_QUOTA, limit.as_bytes()), "OK|");
    let path = "/local/domain/5/shared";
    let write = |len: usize| format!("{path}\0{}", "x".repeat(len));
    let ask_other = |s: &mut Server, op, tx, payload: &str| {
        s.request(other, op, TxId(tx), payload.as_bytes())
            .map(|reply| String::from_utf8(reply).unwrap())
    };
    let ok = Ok("OK\0".to_owned());
    assert_eq!(ask_other(s, XS_WRITE, 0, &write(1500)), Err(Errno::ENOMEM));
    let hits = |s: &Server, domid| {
        let all = s.stats();
        all.iter()
            .find(|each| each.domid == domid)
            .unwrap()
            .quota_hits
    };
    assert_eq!(
        (hits(s, GUEST), hits(s, DomId(6))),
        (1, 0),
        "it is the owner's quota"
    );
    // What was affordable when it was written is not when it is committed.
    assert_eq!(
        ask_other(s, XS_TRANSACTION_START, 0, "\0"),
        Ok("1\0".to_owned())
    );
    assert_eq!(ask_other(s, XS_WRITE, 1, &write(900)), ok);
    let own = format!("shared|{}", "y".repeat(900));
    table(s, guest, XS_READ, &[("shared|", "x")]);
    let token = format!("a|{}|", "t".repeat(200));
    let watch = token.replace('|', "\0");
    assert!(
        s.request(guest, XS_WATCH, TxId::NONE, watch.as_bytes())
            .is_ok()
    );
    assert_eq!(
        ask_other(s, XS_TRANSACTION_END, 1, "T\0"),
        Err(Errno::EAGAIN)
    );
    assert!(in_use(s) <= most);
    while s.take_event(guest).is_some() {}
    table(s, guest, XS_WRITE, &[(&own, "!ENOMEM")]);
    table(s, dom0, XS_CONTROL, &[("check|", "OK|")]);
}
