//! The socket's file.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use cantle_xenstore::transport::listen::bind;

#[test]
fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let first = bind(&path).unwrap();
    let taken = bind(&path).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    UnixStream::connect(&path).expect("the living one was left alone");
    drop(first);
    assert!(path.exists(), "as after a kill");
    let _second = bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn only_the_owner_may_connect() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let _listener = bind(&path).unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert_eq!(bind(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let socket = directory.path().join("dead");
    drop(UnixListener::bind(&socket).unwrap());
    let link = directory.path().join("link");
    symlink(&socket, &link).unwrap();
    assert_eq!(bind(&link).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(socket.exists() && link.exists());
}

#[test]
fn only_one_of_many_that_start_at_once_gets_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    let listeners: Vec<_> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path))).collect();
        starting
            .into_iter()
            .map(|one| one.join().unwrap())
            .collect()
    });
    let bound = listeners.iter().filter(|listener| listener.is_ok()).count();
    assert_eq!(bound, 1);
    UnixStream::connect(&path).expect("and the file is that one's");
}
