//! What a program needs that replaces itself: everything of a connection comes out, and goes in again.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{XS_READ, XS_WRITE};
use cantle_xenstore::server::ConnKind;
use cantle_xenstore::transport::service::Served;
use cantle_xenstore::{Service, Shared, TxId};

use crate::raw::Client;

#[test]
fn a_connection_goes_on_with_what_was_on_its_way() {
    let store = Shared::default();
    let mut service = Service::new(store.clone()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut client = Client::new(theirs);
    let conn = store.connect_as(ConnKind::Socket, DomId::DOM0, true, Arc::new(|| ()));
    let question = client.message(XS_READ, b"/\0");
    let (read, to_come) = question.split_at(10);
    service
        .adopt(ours, conn, read.to_vec(), b"the end of an answer".to_vec())
        .unwrap();
    client.stream.write_all(to_come).unwrap();
    for _ in 0..4 {
        service.run_once(Some(Duration::from_millis(10))).unwrap();
    }
    let mut first = [0; 20];
    client.stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"the end of an answer");
    assert_eq!(client.receive().unwrap().kind, XS_READ);
}

#[test]
fn what_a_client_has_no_room_for_is_shown() {
    let store = Shared::default();
    let mut service = Service::new(store.clone()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut client = Client::new(theirs);
    let conn = service.connect(ours).unwrap();
    store
        .with(|server| {
            server.request(
                conn,
                XS_WRITE,
                TxId::NONE,
                &[b"/a\0", &[b'x'; 2000][..]].concat(),
            )
        })
        .unwrap();
    let question = client.message(XS_READ, b"/a\0");
    let mut asked = 0;
    // Until neither way has room.
    client.stream.set_nonblocking(true).unwrap();
    while client
        .stream
        .write(&question)
        .is_ok_and(|len| len == question.len())
    {
        asked += 1;
        service.run_once(Some(Duration::ZERO)).unwrap();
    }
    let [
        Served::Socket {
            conn: found,
            unsent,
            ..
        },
    ] = &service.connections().collect::<Vec<_>>()[..]
    else {
        panic!("one connection");
    };
    assert_eq!(*found, conn);
    assert!(asked > 10 && !unsent.is_empty());
}

#[test]
fn a_descriptor_of_the_callers_ends_the_wait() {
    let mut service = Service::new(Shared::default()).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    service.watch(&ours, 7).unwrap();
    service.run_once(Some(Duration::ZERO)).unwrap();
    assert!(service.take_watched().is_empty());
    theirs.write_all(b"x").unwrap();
    service.run_once(None).unwrap();
    assert_eq!(service.take_watched(), [7]);
    service.run_once(None).unwrap();
    assert_eq!(service.take_watched(), [7], "it was not read");
    service.unwatch(ours.as_fd()).unwrap();
    service.run_once(Some(Duration::ZERO)).unwrap();
    assert!(service.take_watched().is_empty());
}
