//! What outlives a domain: nothing. And what does not end it.

use cantle_abi::io::xs_wire::{XS_READ, XS_WRITE};
use cantle_abi::{DomId, Errno};
use cantle_xenstore::prelude::*;
use cantle_xenstore::server::{Closed, Server};
use cantle_xenstore::wire::{self, Message, TooLong};
use cantle_xenstore::{Access, Perms};

use crate::{GUEST, NONE, OTHER, born, check, events, world};

#[test]
fn xsa_322_the_next_domain_of_a_number_inherits_nothing() {
    let (store, dom0, guest, other) = world();
    guest.write(NONE, "deep/er", b"secret").unwrap();
    let shared = Perms::new(OTHER, Access::None).and(GUEST, Access::Both);
    other.write(NONE, "shared", b"for 7").unwrap();
    other.set_perms(NONE, "shared", &shared).unwrap();
    dom0.write(NONE, "/tool/lent", b"").unwrap();
    dom0.set_perms(NONE, "/tool/lent", &Perms::new(GUEST, Access::None))
        .unwrap();
    dom0.write(NONE, "/tool/lent/kept", b"of domain 0").unwrap();
    dom0.set_perms(
        NONE,
        "/tool/lent/kept",
        &Perms::new(DomId::DOM0, Access::None),
    )
    .unwrap();
    // A permission on its way in somebody's transaction.
    let tx = other.transaction_start().unwrap();
    other.write(tx, "late", b"for 7").unwrap();
    other.set_perms(tx, "late", &shared).unwrap();

    store.release(GUEST).unwrap();
    assert_eq!(guest.read(NONE, "deep/er").unwrap_err().errno, Errno::EIO);
    assert!(!dom0.exists(NONE, "/local/domain/7").unwrap());
    assert_eq!(
        other.get_perms(NONE, "shared").unwrap(),
        Perms::new(OTHER, Access::None)
    );
    for path in ["/tool/lent", "/tool/lent/kept"] {
        assert!(!dom0.exists(NONE, path).unwrap(), "all below goes along");
    }

    let heir = born(&store, &dom0, GUEST);
    assert_eq!(
        other.transaction_end(tx, true).unwrap_err().errno,
        Errno::EAGAIN
    );
    for path in [
        "/local/domain/8/shared",
        "/local/domain/8/late",
        "/tool/lent",
    ] {
        assert_eq!(
            heir.read(NONE, path).unwrap_err().errno,
            Errno::EACCES,
            "{path}"
        );
    }
    assert_eq!(heir.directory(NONE, "").unwrap_err().errno, Errno::EINVAL);
    assert_eq!(heir.directory(NONE, "/local/domain/7").unwrap(), [""; 0]);
    check(&dom0);
}

#[test]
fn xsa_322_special_watches_are_not_inherited_either() {
    let (store, dom0, guest, _) = world();
    let listed = Perms::new(DomId::DOM0, Access::None).and(GUEST, Access::Read);
    dom0.set_perms(NONE, "@releaseDomain", &listed).unwrap();
    drop(guest);
    store.release(GUEST).unwrap();
    let heir = born(&store, &dom0, GUEST);
    heir.watch("@releaseDomain", "t").unwrap();
    events(&heir);
    store.release(OTHER).unwrap();
    assert_eq!(events(&heir), [""; 0]);
}

#[test]
fn xsa_322_a_domain_that_was_never_introduced_leaves_nothing_either() {
    let (store, dom0, _, _) = world();
    dom0.watch("@releaseDomain", "t").unwrap();
    assert_eq!(events(&dom0).len(), 1);
    dom0.mkdir(NONE, "/tool/half").unwrap();
    dom0.set_perms(NONE, "/tool/half", &Perms::new(DomId(9), Access::None))
        .unwrap();
    store.release(DomId(9)).unwrap();
    assert!(!dom0.exists(NONE, "/tool/half").unwrap());
    assert_eq!(events(&dom0), [""; 0]);
    check(&dom0);
}

#[test]
fn xsa_325_a_client_that_misbehaves_is_not_a_domain_that_ended() {
    let (store, dom0, guest, _) = world();
    dom0.watch("@releaseDomain", "t").unwrap();
    dom0.watch("@releaseDomain/7", "one").unwrap();
    events(&dom0);
    let too_long = 4097_u32;
    let verdict = store.with(|server| {
        let bad = server.connect(GUEST, false);
        let mut bytes = Vec::new();
        wire::emit(&mut bytes, XS_READ, 1, 0, &[b"a\0"]).unwrap();
        bytes[12..16].copy_from_slice(&too_long.to_le_bytes());
        server.feed(bad, &bytes)
    });
    let closed = Closed::Protocol(TooLong { len: too_long });
    assert_eq!(verdict, Err(closed));
    assert_eq!(events(&dom0), [""; 0]);
    // Its other connection, its nodes and its introduction are as they were.
    guest.write(NONE, "alive", b"").unwrap();
    store.release(GUEST).unwrap();
    assert_eq!(events(&dom0), ["@releaseDomain", "@releaseDomain/7"]);
}

#[test]
fn xsa_417_a_node_that_is_changed_after_a_domains_end_gives_its_heir_nothing() {
    let (store, dom0, guest, other) = world();
    let shared = Perms::new(OTHER, Access::None).and(GUEST, Access::Both);
    for path in ["written", "remade", "kept"] {
        other.write(NONE, path, b"for 7").unwrap();
        other.set_perms(NONE, path, &shared).unwrap();
    }
    drop(guest);
    store.release(GUEST).unwrap();
    // Changed, and inherited from, by somebody who does not know that it is gone.
    other.write(NONE, "written", b"again").unwrap();
    other.write(NONE, "written/below", b"new").unwrap();
    other.rm(NONE, "remade").unwrap();
    other.write(NONE, "remade", b"new").unwrap();
    let heir = born(&store, &dom0, GUEST);
    for path in ["written", "written/below", "remade", "kept"] {
        let path = format!("/local/domain/8/{path}");
        let refused = heir.read(NONE, &path).unwrap_err();
        assert_eq!(refused.errno, Errno::EACCES, "{path}");
        let refused = heir.write(NONE, &path, b"").unwrap_err();
        assert_eq!(refused.errno, Errno::EACCES, "{path}");
    }
    check(&dom0);
}

#[test]
fn xsa_419_nodes_outside_a_domains_home_go_with_it_however_often_it_is_reborn() {
    let (store, dom0, mut guest, _) = world();
    dom0.mkdir(NONE, "/local/domain/8/inbox").unwrap();
    let everybody = Perms::new(OTHER, Access::Both);
    dom0.set_perms(NONE, "/local/domain/8/inbox", &everybody)
        .unwrap();
    for round in 0..20 {
        for number in 0..50 {
            let path = format!("/local/domain/8/inbox/{round}-{number}/deep");
            guest.write(NONE, &path, b"litter").unwrap();
        }
        store.release(GUEST).unwrap();
        guest = born(&store, &dom0, GUEST);
    }
    let left = dom0.directory(NONE, "/local/domain/8/inbox").unwrap();
    assert_eq!(left, [""; 0]);
    check(&dom0);
}

#[test]
fn xsa_420_a_length_below_nothing_ends_its_connection_at_once() {
    let mut server = Server::new();
    let dom0 = server.connect(DomId::DOM0, true);
    for len in [4097_u32, 0x8000_0000, u32::MAX - 15, u32::MAX] {
        let guest = server.connect(GUEST, false);
        let mut bytes = Vec::new();
        wire::emit(&mut bytes, XS_WRITE, 1, 0, &[b"a\0b"]).unwrap();
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
        // Byte by byte, as a ring may have them: it ends with the last of the header.
        let taken = bytes.chunks(1).map(|byte| server.feed(guest, byte));
        let verdicts: Vec<_> = taken.collect();
        assert!(verdicts[..15].iter().all(|verdict| *verdict == Ok(1)));
        assert_eq!(verdicts[15], Err(Closed::Protocol(TooLong { len })));
        assert!(
            verdicts[16..]
                .iter()
                .all(|verdict| *verdict == Err(Closed::Unknown))
        );
    }
    let mut bytes = Vec::new();
    wire::emit(&mut bytes, XS_READ, 7, 0, &[b"/tool\0"]).unwrap();
    server.feed(dom0, &bytes).unwrap();
    let output = server.output(dom0, usize::MAX);
    let (reply, _) = Message::parse(output).unwrap().unwrap();
    assert_eq!(reply.header.kind, XS_READ, "others go on");
}
