//! Requests that every daemon answers alike.

use std::thread;

use cantle_abi::io::xs_wire::XENSTORE_SERVER_FEATURE_WATCHDEPTH;
use cantle_abi::{DomId, Errno};
use cantle_xenstore::client::Request;
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Access, Error, Perms, TxId};

use crate::daemon::{Daemon, Kind};

const NONE: TxId = TxId::NONE;

fn errno<T: std::fmt::Debug>(result: Result<T, Error>) -> Errno {
    result.unwrap_err().errno
}

pub(crate) fn nodes(daemon: &Daemon) {
    let client = daemon.client();
    client.write(NONE, "/nodes/a/b", b"v\0\xff\n").unwrap();
    assert_eq!(client.read(NONE, "/nodes/a/b").unwrap(), b"v\0\xff\n");
    assert_eq!(client.read(NONE, "/nodes/a").unwrap(), b"");
    assert_eq!(errno(client.read(NONE, "/nodes/c")), Errno::ENOENT);
    assert!(!client.exists(NONE, "/nodes/c").unwrap());
    assert_eq!(errno(client.read(NONE, "//")), Errno::EINVAL);
    client.mkdir(NONE, "/nodes/c").unwrap();
    let mut names = client.directory(NONE, "/nodes").unwrap();
    names.sort();
    assert_eq!(names, ["a", "c"]);
    let perms = Perms::new(DomId(0), Access::None).and(DomId(7), Access::Both);
    client.set_perms(NONE, "/nodes/a", &perms).unwrap();
    assert_eq!(client.get_perms(NONE, "/nodes/a").unwrap(), perms);
    client.rm(NONE, "/nodes/a").unwrap();
    assert!(!client.exists(NONE, "/nodes/a/b").unwrap());
    client.rm(NONE, "/nodes/a").unwrap();
    assert_eq!(errno(client.rm(NONE, "/nodes/x/y")), Errno::ENOENT);
    client.rm_if_there(NONE, "/nodes/x/y").unwrap();
    client.write(NONE, "/nodes/n", b"17").unwrap();
    assert_eq!(client.read_parsed::<u32>(NONE, "/nodes/n").unwrap(), 17);
    let long = vec![b'x'; 5000];
    assert_eq!(errno(client.write(NONE, "/nodes/n", &long)), Errno::E2BIG);
    assert!(client.is_connected(), "it was not sent at all");
}

pub(crate) fn requests_at_once(daemon: &Daemon) {
    let client = daemon.client();
    let paths: Vec<String> = (0..500)
        .map(|number| format!("/at-once/{number}"))
        .collect();
    let value = vec![b'v'; 1000];
    let writes: Vec<_> = paths
        .iter()
        .map(|path| Request::write(path, &value))
        .collect();
    assert!(client.request_all(NONE, &writes).iter().all(Result::is_ok));
    let mut reads: Vec<_> = paths.iter().map(|path| Request::read(path)).collect();
    reads.insert(7, Request::read("/at-once/none"));
    reads.insert(9, Request::read("/a\0b"));
    let mut read = client.request_all(NONE, &reads);
    assert_eq!(errno(read.remove(9)), Errno::EINVAL);
    assert_eq!(errno(read.remove(7)), Errno::ENOENT);
    assert_eq!(read, vec![Ok(value); 500]);
}

pub(crate) fn transactions(daemon: &Daemon) {
    let (one, other) = (daemon.client(), daemon.client());
    one.write(NONE, "/tx/count", b"0").unwrap();
    let tx = one.transaction_start().unwrap();
    one.write(tx, "/tx/seen", b"inside").unwrap();
    assert!(!other.exists(NONE, "/tx/seen").unwrap());
    one.transaction_end(tx, false).unwrap();
    assert!(!one.exists(NONE, "/tx/seen").unwrap());
    let over = one.read(tx, "/tx/count");
    assert_eq!(errno(over), Errno::ENOENT, "it is over");

    let tx = one.transaction_start().unwrap();
    one.read(tx, "/tx/count").unwrap();
    one.write(tx, "/tx/count", b"1").unwrap();
    other.write(NONE, "/tx/count", b"7").unwrap();
    assert!(one.transaction_end(tx, true).unwrap_err().is_again());

    let mut tries = 0;
    let seen: u32 = one
        .transact(|tx| {
            tries += 1;
            let count = one.read_parsed(tx, "/tx/count")?;
            if tries < 3 {
                other.write(NONE, "/tx/count", tries.to_string().as_bytes())?;
            }
            one.write(tx, "/tx/count", b"done").map(|()| count)
        })
        .unwrap();
    assert_eq!((tries, seen), (3, 2));
    assert_eq!(other.read(NONE, "/tx/count").unwrap(), b"done");
    let given_up = one.transact(|tx| one.read(tx, "/tx/nothing"));
    assert_eq!(errno(given_up), Errno::ENOENT);
}

pub(crate) fn long_directories(daemon: &Daemon) {
    let client = daemon.client();
    let mut expected: Vec<String> = (0..300)
        .map(|n| format!("a-long-name-number-{n}"))
        .collect();
    for name in &expected {
        client.mkdir(NONE, &format!("/long/{name}")).unwrap();
    }
    let mut names = client.directory(NONE, "/long").unwrap();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    client.rm(NONE, "/long").unwrap();
}

pub(crate) fn domains_and_control(daemon: &Daemon) {
    let client = daemon.client();
    let path = client.domain_path(DomId(0)).unwrap();
    assert_eq!(path, "/local/domain/0");
    assert!(!client.is_domain_introduced(DomId(5)).unwrap());
    // Where there is no such domain, each daemon has an error of its own.
    client.release(DomId(5)).unwrap_err();
    if daemon.kind == Kind::Ours {
        let features = client.features(None).unwrap();
        assert_ne!(features & XENSTORE_SERVER_FEATURE_WATCHDEPTH, 0);
        client.set_features(DomId(9), 1).unwrap();
        assert_eq!(client.features(Some(DomId(9))).unwrap(), 1);
        let names = client.quota_names().unwrap();
        assert!(names.iter().any(|name| name == "nodes"), "{names:?}");
        client.set_quota(None, "nodes", 777).unwrap();
        assert_eq!(client.quota(None, "nodes").unwrap(), 777);
        assert_eq!(errno(client.quota(None, "no-such-quota")), Errno::EINVAL);
        client.set_quota(None, "nodes", 0).unwrap();
        assert!(!client.control(&["help"]).unwrap().is_empty());
    } else {
        // Xen 4.20 has no such requests yet.
        assert_eq!(errno(client.features(None)), Errno::ENOSYS);
    }
    if daemon.kind != Kind::Oxenstored {
        // That one says OK to everything.
        client.control(&["no-such-command"]).unwrap_err();
    }
    assert!(client.is_connected());
}

pub(crate) fn threads_share_a_client(daemon: &Daemon) {
    let client = &daemon.client();
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for round in 0..200 {
                    let path = format!("/threads/{thread}/{}", round % 10);
                    let value = format!("{thread} {round}");
                    client.write(NONE, &path, value.as_bytes()).unwrap();
                    assert_eq!(client.read_string(NONE, &path).unwrap(), value);
                }
            });
        }
    });
}
