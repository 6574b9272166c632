//! Advisories of clients that make the daemon keep ever more: each by its name.

use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_MKDIR, XS_READ, XS_TRANSACTION_END, XS_TRANSACTION_START, XS_WATCH, XS_WRITE,
};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::server::{ConnId, DomainStats, Server};
use cantle_xenstore::{TxId, wire};

use crate::support::{GUEST, ask, table, world};

fn stats(server: &Server, domid: DomId) -> DomainStats {
    let all = server.stats();
    *all.iter().find(|each| each.domid == domid).unwrap()
}

/// Feeds the same bytes until they are not taken any more; how often they were.
fn flood(server: &mut Server, conn: ConnId, bytes: &[u8]) -> usize {
    (0..1_000_000)
        .take_while(|_| server.feed(conn, bytes) == Ok(bytes.len()))
        .count()
}

fn check(server: &mut Server, dom0: ConnId) {
    let answer = server.request(dom0, XS_CONTROL, TxId::NONE, b"check\0");
    assert_eq!(answer, Ok(b"OK\0".to_vec()));
}

#[test]
fn xsa_326_a_client_that_reads_no_replies_is_not_heard_any_more() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let mut read = Vec::new();
    wire::emit(&mut read, XS_READ, 1, 0, &[b"/tool\0"]).unwrap();
    assert_eq!(flood(s, guest, &read), 20);
    // A privileged client has no quota, but what waits for it is bounded too.
    let mut list = Vec::new();
    wire::emit(&mut list, XS_CONTROL, 1, 0, &[b"help\0"]).unwrap();
    let other = s.connect_socket();
    let taken = flood(s, other, &list);
    assert!((20..1000).contains(&taken), "{taken}");
    assert!(stats(s, DomId::DOM0).unread < 24 * 1024);
    check(s, dom0);
}

#[test]
fn xsa_326_a_client_that_reads_no_events_is_told_in_brief() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    for token in 0..128 {
        let payload = format!("/tool\0{token}\0");
        s.request(guest, XS_WATCH, TxId::NONE, payload.as_bytes())
            .unwrap();
    }
    let all = "/tool\0r0\0";
    s.request(
        dom0,
        cantle_abi::io::xs_wire::XS_SET_PERMS,
        TxId::NONE,
        all.as_bytes(),
    )
    .unwrap();
    let before = stats(s, GUEST).bytes;
    for number in 0..2000 {
        let payload = format!("/tool/{number}\0r0");
        s.request(dom0, XS_WRITE, TxId::NONE, payload.as_bytes())
            .unwrap();
    }
    let now = stats(s, GUEST);
    assert!(
        now.bytes - before <= 64 * 1024 && now.unread <= 64 * 1024,
        "{now:?}"
    );
    let waiting = std::iter::from_fn(|| s.take_event(guest)).count();
    assert!((128..3000).contains(&waiting), "{waiting}");
    check(s, dom0);
}

/// What Linux's back ends were flooded with: here at the store, whose dom0 does not read either.
#[test]
fn xsa_349_a_flood_of_changes_does_not_grow_its_watcher() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let back = s.connect_socket();
    let watch = [&b"/local/domain/5\0backend\0"[..]];
    let mut bytes = Vec::new();
    wire::emit(&mut bytes, XS_WATCH, 1, 0, &watch).unwrap();
    s.feed(back, &bytes).unwrap();
    for number in 0..20_000 {
        let payload = format!("state\0{number}");
        s.request(guest, XS_WRITE, TxId::NONE, payload.as_bytes())
            .unwrap();
    }
    assert!(stats(s, DomId::DOM0).unread < 66 * 1024);
    // It learns that it has to look, and nobody else has waited.
    let output = s.output(back, usize::MAX);
    assert!(output.ends_with(b"/local/domain/5\0backend\0"));
    table(s, dom0, XS_READ, &[("/local/domain/5/state|", "19999")]);
    check(s, dom0);
}

/// Memory of a request must not hang on its reply: a transaction that has ended is gone, read or not.
#[test]
fn xsa_416_what_a_request_needed_goes_before_its_reply_is_read() {
    let (mut server, dom0, guest) = world();
    let s = &mut server;
    let before = stats(s, GUEST).bytes;
    let value = [b'v'; 2000];
    let mut bytes = Vec::new();
    for tx in 1..6 {
        bytes.clear();
        wire::emit(&mut bytes, XS_TRANSACTION_START, 1, 0, &[b"\0"]).unwrap();
        wire::emit(&mut bytes, XS_WRITE, 1, tx, &[b"a\0", &value]).unwrap();
        wire::emit(&mut bytes, XS_TRANSACTION_END, 1, tx, &[b"F\0"]).unwrap();
        assert_eq!(s.feed(guest, &bytes), Ok(bytes.len()));
    }
    assert!(s.has_output(guest), "nothing has been read");
    assert_eq!(stats(s, GUEST).bytes, before);
    check(s, dom0);
}

#[test]
fn xsa_483_counts_do_not_outlive_the_domain() {
    let (mut server, dom0, _) = world();
    let s = &mut server;
    for _ in 0..3 {
        let guest = s.connect(GUEST, false);
        table(s, dom0, XS_MKDIR, &[("/local/domain/5|", "OK|")]);
        let perms = cantle_abi::io::xs_wire::XS_SET_PERMS;
        table(s, dom0, perms, &[("/local/domain/5|n5|", "OK|")]);
        for number in 0..1000 {
            let made = s.request(
                guest,
                XS_MKDIR,
                TxId::NONE,
                format!("{number}\0").as_bytes(),
            );
            let wanted = if number < 999 {
                Ok(b"OK\0".to_vec())
            } else {
                Err(Errno::ENOSPC)
            };
            assert_eq!(made, wanted, "{number}");
        }
        while ask(s, guest, XS_TRANSACTION_START, b"\0") != "!ENOSPC" {}
        assert_eq!(stats(s, GUEST).quota_hits, 2);
        s.release(GUEST).unwrap();
        assert!(s.stats().iter().all(|each| each.domid != GUEST));
        check(s, dom0);
    }
}
