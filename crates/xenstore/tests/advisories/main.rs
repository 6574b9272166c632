//! Known wounds of xenstores, each a test that would fail on a store that has it. Those of the ring and of the handshake
//! (XSA-325, 326, 349) are beside their tests too.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod domains;

use cantle_abi::io::xs_wire::{
    XS_CONTROL, XS_DIRECTORY, XS_READ, XS_RESET_WATCHES, XS_WATCH, XS_WATCH_EVENT, XS_WRITE,
};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::prelude::*;
use cantle_xenstore::server::Server;
use cantle_xenstore::wire::{self, Message};
use cantle_xenstore::{Access, LocalClient, Perms, Shared, TxId, WatchEvent};

const NONE: TxId = TxId::NONE;
const GUEST: DomId = DomId(7);
const OTHER: DomId = DomId(8);

/// A store, its dom0, and two guests with homes of their own.
fn world() -> (Shared, LocalClient, LocalClient, LocalClient) {
    let store = Shared::default();
    let dom0 = store.client(DomId::DOM0).unwrap();
    let guest = born(&store, &dom0, GUEST);
    let other = born(&store, &dom0, OTHER);
    (store, dom0, guest, other)
}

fn born(store: &Shared, dom0: &LocalClient, domid: DomId) -> LocalClient {
    let home = format!("/local/domain/{domid}");
    dom0.mkdir(NONE, &home).unwrap();
    dom0.set_perms(NONE, &home, &Perms::new(domid, Access::None))
        .unwrap();
    store.introduce(domid).unwrap();
    store.client(domid).unwrap()
}

fn events(client: &LocalClient) -> Vec<String> {
    std::iter::from_fn(|| client.take_event().map(|event| event.path)).collect()
}

fn check(dom0: &LocalClient) {
    assert_eq!(dom0.request(XS_CONTROL, NONE, b"check\0").unwrap(), b"OK\0");
}

#[test]
fn xsa_72_a_reply_too_long_is_an_error_and_comes_in_parts() {
    let (_, dom0, _, _) = world();
    let names: Vec<_> = (0..2000)
        .map(|number| format!("a-rather-long-name-{number:05}"))
        .collect();
    for name in &names {
        dom0.write(NONE, &format!("/big/{name}"), b"").unwrap();
    }
    assert_eq!(
        dom0.request(XS_DIRECTORY, NONE, b"/big\0"),
        Err(Errno::E2BIG)
    );
    assert_eq!(dom0.directory(NONE, "/big").unwrap(), names);
}

#[test]
fn xsa_115_no_event_for_what_one_may_not_read() {
    let (store, dom0, guest, other) = world();
    guest.watch("/", "all").unwrap();
    guest.watch("/local/domain/8/secret", "secret").unwrap();
    guest.watch("@introduceDomain", "in").unwrap();
    guest.watch("@releaseDomain", "out").unwrap();
    assert_eq!(events(&guest).len(), 4, "the first events tell nothing");
    other.write(NONE, "secret", b"1").unwrap();
    other.write(NONE, "secret", b"2").unwrap();
    dom0.write(NONE, "/tool/secret", b"").unwrap();
    other.rm(NONE, "secret").unwrap();
    store.introduce(DomId(9)).unwrap();
    store.release(DomId(9)).unwrap();
    assert_eq!(events(&guest), [""; 0]);
    // What becomes readable is told, and what was.
    other.write(NONE, "shown", b"").unwrap();
    let shown = Perms::new(OTHER, Access::None).and(GUEST, Access::Read);
    other.set_perms(NONE, "shown", &shown).unwrap();
    assert_eq!(events(&guest), ["/local/domain/8/shown"]);
    other
        .set_perms(NONE, "shown", &Perms::new(OTHER, Access::None))
        .unwrap();
    assert_eq!(events(&guest), ["/local/domain/8/shown"]);
    other.write(NONE, "shown", b"hidden again").unwrap();
    assert_eq!(events(&guest), [""; 0]);
    // Special watches are for whom dom0 allows them.
    let listed = Perms::new(DomId::DOM0, Access::None).and(GUEST, Access::Read);
    assert!(guest.set_perms(NONE, "@introduceDomain", &listed).is_err());
    dom0.set_perms(NONE, "@introduceDomain", &listed).unwrap();
    store.introduce(DomId(9)).unwrap();
    assert_eq!(events(&guest), ["@introduceDomain"]);
}

#[test]
fn xsa_206_transactions_that_write_all_the_time_starve_nobody() {
    let (_, dom0, guest, _) = world();
    dom0.write(NONE, "/tool/count", b"0").unwrap();
    let mut commits = 0;
    for round in 0..1000_u32 {
        let tx = dom0.transaction_start().unwrap();
        let count: u32 = dom0.read_parsed(tx, "/tool/count").unwrap();
        let noise = guest.transaction_start().unwrap();
        guest
            .write(noise, "noise", round.to_string().as_bytes())
            .unwrap();
        guest.transaction_end(noise, true).unwrap();
        dom0.write(tx, "/tool/count", (count + 1).to_string().as_bytes())
            .unwrap();
        commits += u32::from(dom0.transaction_end(tx, true).is_ok());
    }
    assert_eq!(commits, 1000);
}

#[test]
fn xsa_323_a_relative_path_is_measured_with_its_prefix() {
    let (_, _, guest, _) = world();
    let longest = "a".repeat(2048);
    guest.write(NONE, &longest, b"").unwrap();
    assert_eq!(
        guest.write(NONE, &"a".repeat(2049), b"").unwrap_err().errno,
        Errno::EINVAL
    );
    assert_eq!(
        guest.read(NONE, &"a".repeat(3072)).unwrap_err().errno,
        Errno::EINVAL
    );
    assert_eq!(
        guest.watch(&"a".repeat(3073), "t").unwrap_err().errno,
        Errno::EINVAL
    );
}

#[test]
fn xsa_324_every_event_of_every_watch_fits_in_a_message() {
    let mut server = Server::new();
    let dom0 = server.connect(DomId::DOM0, true);
    let watcher = server.connect(DomId::DOM0, true);
    let token = vec![b't'; 1022];
    let mut bytes = Vec::new();
    wire::emit(&mut bytes, XS_WATCH, 1, 0, &[b"/\0", &token, b"\0"]).unwrap();
    wire::emit(&mut bytes, XS_WATCH, 2, 0, &[b"/\0", &token, b"t\0"]).unwrap();
    assert_eq!(server.feed(watcher, &bytes), Ok(bytes.len()));
    let longest = format!("/{}", "a".repeat(3071));
    server
        .request(dom0, XS_WRITE, NONE, &[longest.as_bytes(), b"\0"].concat())
        .unwrap();
    let output = server.output(watcher, usize::MAX).to_vec();
    let mut rest = output.as_slice();
    let mut seen = Vec::new();
    while let Some((message, after)) = Message::parse(rest).unwrap() {
        seen.push((message.header.kind, message.payload.len()));
        rest = after;
    }
    assert!(rest.is_empty());
    let event = (XS_WATCH_EVENT, 3072 + 1 + 1022 + 1);
    assert_eq!(seen[0], (XS_WATCH, 3));
    assert_eq!(seen.last(), Some(&event));
    assert_eq!(
        wire::reply(seen[2].0, b"E2BIG\0"),
        Err(Errno::E2BIG),
        "the longer token is refused"
    );
}

#[test]
fn xsa_326_a_big_transaction_meets_its_quota() {
    let (_, dom0, guest, _) = world();
    let value = vec![b'x'; 2000];
    let tx = guest.transaction_start().unwrap();
    let mut refused = None;
    for number in 0..5000 {
        if let Err(error) = guest.write(tx, &format!("n{}", number % 10), &value) {
            refused = Some((number, error.errno));
            break;
        }
    }
    assert!(
        matches!(refused, Some((number, Errno::ENOSPC)) if number <= 1024),
        "{refused:?}"
    );
    guest.transaction_end(tx, false).unwrap();
    let tx = guest.transaction_start().unwrap();
    let reads = (0..5000)
        .take_while(|_| guest.read(tx, "n").unwrap_err().errno == Errno::ENOENT)
        .count();
    assert_eq!(reads, 1024);
    let open = (0..100)
        .take_while(|_| guest.transaction_start().is_ok())
        .count();
    assert_eq!(open, 9);
    // It harms nobody else.
    dom0.transact(|tx| dom0.write(tx, "/tool/fine", b""))
        .unwrap();
}

#[test]
fn xsa_326_unread_events_and_watches_meet_their_quota() {
    let (_, dom0, guest, other) = world();
    let shown = Perms::new(OTHER, Access::Read);
    other.set_perms(NONE, "/local/domain/8", &shown).unwrap();
    let watches = (0..1000)
        .map(|number| guest.watch("/local/domain/8", &number.to_string()))
        .take_while(|result| match result {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.errno, Errno::E2BIG);
                false
            }
        })
        .count();
    assert_eq!(watches, 128);
    for number in 0..900 {
        other.write(NONE, &format!("n{number}"), b"").unwrap();
    }
    let waiting: Vec<WatchEvent> = std::iter::from_fn(|| guest.take_event()).collect();
    let bytes: usize = waiting
        .iter()
        .map(|event| event.path.len() + event.token.len() + 18)
        .sum();
    assert!(bytes < 64 * 1024 + 128 * 64, "{bytes} bytes waited");
    for number in 0..128 {
        let token = number.to_string();
        let mut told = waiting.iter().filter(|event| event.token == token);
        let whole = told.any(|event| event.path == "/local/domain/8");
        assert!(whole, "watch {token} knows that it has to look");
    }
    check(&dom0);
}

#[test]
fn xsa_330_reset_watches_leaves_none() {
    let (_, dom0, guest, _) = world();
    for _ in 0..100 {
        for number in 0..128 {
            guest.watch("device", &number.to_string()).unwrap();
        }
        guest.request(XS_RESET_WATCHES, NONE, b"\0").unwrap();
    }
    assert_eq!(events(&guest), [""; 0]);
    guest.write(NONE, "device", b"").unwrap();
    assert_eq!(events(&guest), [""; 0]);
    check(&dom0);
}

#[test]
fn xsa_352_an_owner_gives_nothing_away() {
    let (_, dom0, guest, _) = world();
    guest.write(NONE, "mine", b"").unwrap();
    for owner in [DomId::DOM0, OTHER] {
        let error = guest
            .set_perms(NONE, "mine", &Perms::new(owner, Access::Both))
            .unwrap_err();
        assert_eq!(error.errno, Errno::EPERM);
    }
    dom0.set_perms(
        NONE,
        "/local/domain/7/mine",
        &Perms::new(OTHER, Access::None),
    )
    .unwrap();
    check(&dom0);
}

#[test]
fn xsa_353_the_root_has_permissions_like_any_node() {
    let (_, dom0, guest, _) = world();
    assert_eq!(guest.directory(NONE, "/").unwrap_err().errno, Errno::EACCES);
    assert_eq!(
        guest.write(NONE, "/", b"").unwrap_err().errno,
        Errno::EACCES
    );
    assert_eq!(
        guest.write(NONE, "/new", b"").unwrap_err().errno,
        Errno::EACCES
    );
    assert_eq!(
        guest
            .set_perms(NONE, "/", &Perms::new(GUEST, Access::Both))
            .unwrap_err()
            .errno,
        Errno::EACCES
    );
    assert!(guest.rm(NONE, "/").is_err());
    assert_eq!(dom0.rm(NONE, "/").unwrap_err().errno, Errno::EINVAL);
}

#[test]
fn xsa_415_a_request_that_fails_has_changed_nothing() {
    let (_, dom0, guest, _) = world();
    // One more than the quota allows, in one go: none of the ancestors is left behind.
    for number in 0..998 {
        guest.write(NONE, &format!("n{number}"), b"").unwrap();
    }
    assert_eq!(
        guest.write(NONE, "a/b/c", b"").unwrap_err().errno,
        Errno::ENOSPC
    );
    assert!(!guest.exists(NONE, "a").unwrap());
    assert_eq!(
        guest.write(NONE, "n0", &[0; 2045]).unwrap_err().errno,
        Errno::ENOSPC
    );
    assert_eq!(guest.read(NONE, "n0").unwrap(), b"");
    guest.write(NONE, "a", b"").unwrap();
    check(&dom0);
}

#[test]
fn xsa_421_deleting_in_a_transaction_does_not_buy_nodes() {
    let (_, dom0, guest, _) = world();
    for number in 0..900 {
        guest.write(NONE, &format!("old/n{number}"), b"").unwrap();
    }
    let tx = guest.transaction_start().unwrap();
    guest.rm(tx, "old").unwrap();
    for number in 0..900 {
        guest.write(tx, &format!("new/n{number}"), b"").unwrap();
    }
    // The nodes that it deletes are replaced meanwhile: at its end there would be too many.
    guest.rm(NONE, "old").unwrap();
    for number in 0..500 {
        guest.write(NONE, &format!("more/n{number}"), b"").unwrap();
    }
    assert_eq!(
        guest.transaction_end(tx, true).unwrap_err().errno,
        Errno::EAGAIN
    );
    assert!(!guest.exists(NONE, "new").unwrap());
    check(&dom0);
}

#[test]
fn xsa_418_a_deep_tree_needs_no_deep_stack() {
    let work = || {
        let (store, dom0, guest, _) = world();
        let deep = "/a".repeat(1536);
        dom0.watch("/a", "t").unwrap();
        dom0.write(NONE, &deep, b"").unwrap();
        let tx = dom0.transaction_start().unwrap();
        dom0.write(tx, &deep, b"again").unwrap();
        dom0.transaction_end(tx, true).unwrap();
        dom0.set_perms(NONE, &deep, &Perms::new(GUEST, Access::None))
            .unwrap();
        drop(guest);
        store.release(GUEST).unwrap();
        check(&dom0);
        dom0.rm(NONE, "/a").unwrap();
        check(&dom0);
    };
    let small = std::thread::Builder::new().stack_size(128 * 1024);
    small.spawn(work).unwrap().join().unwrap();
}

#[test]
fn xsa_418_a_guest_cannot_make_it_deep() {
    let (_, _, guest, _) = world();
    assert_eq!(
        guest
            .write(NONE, &vec!["a"; 64].join("/"), b"")
            .unwrap_err()
            .errno,
        Errno::ENOSPC
    );
    assert_eq!(
        guest
            .watch(&vec!["a"; 64].join("/"), "t")
            .unwrap_err()
            .errno,
        Errno::ENOSPC
    );
    guest.write(NONE, &vec!["a"; 61].join("/"), b"").unwrap();
}

#[test]
fn xsa_425_a_new_kernel_on_an_old_connection_starts_afresh() {
    let (_, dom0, guest, _) = world();
    guest.watch("device", "old").unwrap();
    let tx = guest.transaction_start().unwrap();
    guest.write(tx, "half", b"").unwrap();
    for _ in 0..3 {
        guest.request(XS_RESET_WATCHES, NONE, b"\0").unwrap();
    }
    assert_eq!(
        guest.transaction_end(tx, true).unwrap_err().errno,
        Errno::ENOENT
    );
    assert!(!guest.exists(NONE, "half").unwrap());
    guest.watch("device", "old").unwrap();
    let open = (0..100)
        .take_while(|_| guest.transaction_start().is_ok())
        .count();
    assert_eq!(open, 10, "what was open is given back");
    check(&dom0);
}

#[test]
fn xsa_481_a_path_that_ends_in_a_slash_is_refused() {
    let (_, dom0, guest, _) = world();
    for client in [&dom0, &guest] {
        for path in [
            "/local/domain/",
            "/local/domain//",
            "//",
            "device/",
            "/local//domain",
        ] {
            assert_eq!(
                client.read(NONE, path).unwrap_err().errno,
                Errno::EINVAL,
                "{path}"
            );
            assert_eq!(
                client.write(NONE, path, b"").unwrap_err().errno,
                Errno::EINVAL,
                "{path}"
            );
            assert_eq!(
                client.watch(path, "t").unwrap_err().errno,
                Errno::EINVAL,
                "{path}"
            );
            assert_eq!(
                client.rm(NONE, path).unwrap_err().errno,
                Errno::EINVAL,
                "{path}"
            );
        }
    }
}

#[test]
fn xsa_483_the_quota_of_a_domain_dies_with_it() {
    let (store, dom0, mut guest, _) = world();
    for _ in 0..3 {
        for number in 0..999 {
            guest.write(NONE, &format!("n{number}"), b"").unwrap();
        }
        assert!(guest.write(NONE, "more", b"").is_err());
        for number in 0..128 {
            guest.watch("n", &number.to_string()).unwrap();
        }
        for _ in 0..10 {
            guest.transaction_start().unwrap();
        }
        store.release(GUEST).unwrap();
        guest = born(&store, &dom0, GUEST);
        check(&dom0);
    }
}

#[test]
fn xsa_484_reset_watches_inside_a_transaction() {
    let (_, dom0, guest, _) = world();
    let tx = guest.transaction_start().unwrap();
    guest.write(tx, "a", b"").unwrap();
    assert_eq!(
        guest.request(XS_RESET_WATCHES, tx, b"\0"),
        Ok(b"OK\0".to_vec())
    );
    assert_eq!(guest.write(tx, "a", b"").unwrap_err().errno, Errno::ENOENT);
    assert_eq!(guest.request(XS_READ, tx, b"a\0"), Err(Errno::ENOENT));
    check(&dom0);
}
