//! One process after the other on the same folder.

use std::path::Path;

use cantle_abi::io::xs_wire::*;
use cantle_abi::{DomId, Gfn, Port};
use cantle_xenstore::journal::{Journal, JournalError, Options};
use cantle_xenstore::server::{ConnId, ConnKind, Restored};
use cantle_xenstore::state::Conn;
use cantle_xenstore::{Server, TxId};

const SMALL: Options = Options {
    sync: false,
    compact_at: 2000,
};

pub(crate) fn ask(server: &mut Server, conn: ConnId, op: XsType, payload: &str) -> String {
    match server.request(conn, op, TxId::NONE, payload.as_bytes()) {
        Ok(answer) => String::from_utf8_lossy(&answer).into_owned(),
        Err(errno) => format!("{errno}"),
    }
}

pub(crate) fn open(dir: &Path, options: Options) -> (Journal, Server) {
    let (mut journal, restored) = Journal::open(dir, options).unwrap();
    let mut server = restored.map_or_else(Server::new, |restored: Restored| restored.server);
    journal.append(&mut server).unwrap();
    (journal, server)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lock")
        .collect();
    names.sort();
    names
}

#[test]
fn everything_that_is_kept_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut server) = open(dir.path(), Options::default());
    let dom0 = server.connect_socket();
    for (op, payload) in [
        (XS_WRITE, "/a/b/c\0value"),
        (XS_WRITE, "/a/gone/x\0value"),
        (XS_SET_PERMS, "/a/b\0n5\0r6\0"),
        (XS_SET_PERMS, "@releaseDomain\0n0\0r5\0"),
        (XS_SET_FEATURE, "5\x004\0"),
        (XS_INTRODUCE, "5\x0077\x009\0"),
        (XS_INTRODUCE, "6\x0078\x0010\0"),
        (XS_INTRODUCE, "7\x0078\x0010\0"),
        (XS_SET_TARGET, "6\x005\0"),
        (XS_WRITE, "/local/domain/7\0"),
        (XS_SET_PERMS, "/local/domain/7\0n7\0"),
    ] {
        assert_eq!(ask(&mut server, dom0, op, payload), "OK\0", "{payload}");
    }
    journal.append(&mut server).unwrap();
    let ring = server.connect_as(ConnKind::Ring, DomId(5), false);
    for (op, payload) in [
        (XS_WATCH, "x\0first\0"),
        (XS_WATCH, "/a\0second\0"),
        (XS_WATCH, "/a\0third\0"),
        (XS_UNWATCH, "/a\0second\0"),
    ] {
        assert_eq!(ask(&mut server, ring, op, payload), "OK\0", "{payload}");
    }
    assert_eq!(ask(&mut server, dom0, XS_RM, "/a/gone\0"), "OK\0");
    assert_eq!(ask(&mut server, dom0, XS_WATCH, "/\0mine\0"), "OK\0");
    assert_eq!(ask(&mut server, dom0, XS_RELEASE, "7\0"), "OK\0");
    journal.append(&mut server).unwrap();
    // Not acknowledged.
    assert_eq!(ask(&mut server, dom0, XS_WRITE, "/late\0"), "OK\0");
    drop(journal);

    let (_journal, restored) = Journal::open(dir.path(), Options::default()).unwrap();
    let Restored {
        mut server,
        connections,
        ..
    } = restored.unwrap();
    let dom0 = server.connect_socket();
    for (op, payload, answer) in [
        (XS_READ, "/a/b/c\0", "value"),
        (XS_GET_PERMS, "/a/b\0", "n5\0r6\0"),
        (XS_GET_PERMS, "/a/b/c\0", "n0\0"),
        (XS_GET_PERMS, "@releaseDomain\0", "n0\0r5\0"),
        (XS_GET_FEATURE, "5\0", "4\0"),
        (XS_IS_DOMAIN_INTRODUCED, "5\0", "T\0"),
        (XS_IS_DOMAIN_INTRODUCED, "7\0", "F\0"),
        (XS_DIRECTORY, "/a\0", "b\0"),
        (XS_DIRECTORY, "/\0", "a\0local\0tool\0"),
        (XS_DIRECTORY, "/local/domain\0", ""),
        (XS_CONTROL, "check\0", "OK\0"),
    ] {
        assert_eq!(ask(&mut server, dom0, op, payload), answer, "{payload}");
    }
    assert_eq!(server.introduced(), [DomId(5), DomId(6)]);
    assert_eq!(server.ring(DomId(5)), Some((Gfn(77), Port(9))));
    let [ring] = &connections[..] else {
        panic!("{connections:?}")
    };
    assert!(matches!(
        ring.by,
        Conn::Ring {
            domid: DomId(5),
            ..
        }
    ));
    // It is told to look at what it watches, and then of what happens.
    assert_eq!(ask(&mut server, dom0, XS_WRITE, "/a/new\0"), "OK\0");
    let events: Vec<_> = std::iter::from_fn(|| server.take_event(ring.conn))
        .map(|event| (event.path, event.token))
        .collect();
    let expected = [("x", "first"), ("/a", "third")];
    assert_eq!(
        events,
        expected.map(|(path, token)| (path.to_owned(), token.to_owned()))
    );
}

#[test]
fn a_folder_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _server) = open(dir.path(), SMALL);
    let second = Journal::open(dir.path(), SMALL);
    assert!(matches!(second, Err(JournalError::InUse { .. })));
    drop(journal);
    open(dir.path(), SMALL);
}

#[test]
fn a_long_journal_becomes_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut server) = open(dir.path(), SMALL);
    assert_eq!(
        names(dir.path()),
        ["00000001.checkpoint", "00000001.journal"]
    );
    let dom0 = server.connect_socket();
    for number in 0..1000 {
        let payload = format!("/n/{}\0{number}", number % 7);
        assert_eq!(ask(&mut server, dom0, XS_WRITE, &payload), "OK\0");
        journal.append(&mut server).unwrap();
    }
    // Of what came while a checkpoint was written there is another now.
    journal.settle();
    journal.append(&mut server).unwrap();
    journal.settle();
    let left = names(dir.path());
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].as_str() > "00000002", "{left:?}");
    let size = left
        .iter()
        .map(|name| dir.path().join(name).metadata().unwrap().len());
    assert!(size.sum::<u64>() < 20_000);
    drop(journal);
    let (_journal, mut server) = open(dir.path(), SMALL);
    let dom0 = server.connect_socket();
    for last in 993..1000 {
        let answer = ask(&mut server, dom0, XS_READ, &format!("/n/{}\0", last % 7));
        assert_eq!(answer, last.to_string());
    }
}

#[test]
fn an_operator_is_told_what_is_wrong_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut server) = open(dir.path(), Options::default());
    let dom0 = server.connect_socket();
    let path = dir.path().join("00000001.journal");
    let mut lens = Vec::new();
    for value in ["one", "two", "three"] {
        lens.push(usize::try_from(path.metadata().unwrap().len()).unwrap());
        ask(&mut server, dom0, XS_WRITE, &format!("/a\0{value}"));
        journal.append(&mut server).unwrap();
    }
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    let value = || {
        let (_journal, mut server) = open(dir.path(), Options::default());
        let dom0 = server.connect_socket();
        ask(&mut server, dom0, XS_READ, "/a\0")
    };
    assert_eq!(value(), "three");
    let mut broken = whole.clone();
    broken[lens[1] + 30] ^= 1;
    std::fs::write(&path, &broken).unwrap();
    match Journal::open(dir.path(), Options::default()) {
        Err(error @ JournalError::Damaged { offset, .. }) => {
            assert_eq!(offset, lens[1]);
            assert!(
                error
                    .to_string()
                    .contains(&format!("truncate -s {offset} "))
            );
        }
        other => panic!("{other:?}"),
    }
    // What it says to do.
    std::fs::write(&path, &broken[..lens[1]]).unwrap();
    assert_eq!(value(), "one");
    // A torn tail needs nobody, and what is written after it counts.
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let (mut journal, mut server) = open(dir.path(), Options::default());
    let dom0 = server.connect_socket();
    assert_eq!(ask(&mut server, dom0, XS_READ, "/a\0"), "two");
    ask(&mut server, dom0, XS_WRITE, "/a\0four");
    journal.append(&mut server).unwrap();
    drop(journal);
    assert_eq!(value(), "four");
    // The checkpoint.
    let path = dir.path().join("00000001.checkpoint");
    let checkpoint = std::fs::read(&path).unwrap();
    std::fs::write(&path, &checkpoint[1..]).unwrap();
    let error = Journal::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, JournalError::Checkpoint { .. }));
    std::fs::remove_file(&path).unwrap();
    let error = Journal::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(error, JournalError::Missing { .. }));
}
