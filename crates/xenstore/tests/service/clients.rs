//! Clients that behave, and clients that do not: each harms only itself.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{XS_READ, XS_WATCH, XS_WATCH_EVENT, XS_WRITE};
use cantle_xenstore::TxId;
use cantle_xenstore::prelude::*;

use crate::raw::Daemon;

#[test]
fn what_one_client_writes_another_reads() {
    let daemon = Daemon::new();
    let (mut one, mut other) = (daemon.client(), daemon.client());
    one.write("/a/b", b"value");
    assert_eq!(other.read("/a/b"), b"value");
    let missing = other.ask(XS_READ, b"/a/c\0");
    assert_eq!(missing.payload, b"ENOENT\0");
}

#[test]
fn a_sockets_paths_begin_at_domain_0s_home() {
    let daemon = Daemon::new();
    let mut client = daemon.client();
    client.write("a", b"1");
    assert_eq!(client.read("/local/domain/0/a"), b"1");
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let daemon = Daemon::new();
    let mut client = daemon.client();
    client.write("/a", b"x");
    let mut all = Vec::new();
    for _ in 0..5000 {
        all.extend(client.message(XS_READ, b"/a\0"));
    }
    let mut writer = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || writer.write_all(&all).unwrap());
    for number in 0..5000 {
        let reply = client.receive().unwrap();
        assert_eq!((reply.req_id, &reply.payload[..]), (number + 2, &b"x"[..]));
    }
    sending.join().unwrap();
}

#[test]
fn an_event_comes_from_another_socket_and_from_this_process() {
    let daemon = Daemon::new();
    let (mut watcher, mut writer) = (daemon.client(), daemon.client());
    watcher.ask(XS_WATCH, b"/a\0token\0");
    assert_eq!(watcher.receive().unwrap().kind, XS_WATCH_EVENT);
    writer.write("/a", b"1");
    assert_eq!(watcher.receive().unwrap().payload, b"/a\0token\0");
    let local = daemon.store.client(DomId::DOM0).unwrap();
    local.write(TxId::NONE, "/a/b", b"2").unwrap();
    assert_eq!(watcher.receive().unwrap().payload, b"/a/b\0token\0");
    // And the other way round.
    local.watch("/c", "local").unwrap();
    local.take_event().unwrap();
    writer.write("/c", b"3");
    assert_eq!(local.take_event().unwrap().path, "/c");
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let daemon = Daemon::new();
    let mut client = daemon.client();
    let bytes = client.message(XS_WRITE, b"/slow\0value");
    for byte in bytes {
        client.stream.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.receive().unwrap().payload, b"OK\0");
    assert_eq!(daemon.client().read("/slow"), b"value");
}

#[test]
fn garbage_ends_the_connection_that_sent_it() {
    let daemon = Daemon::new();
    let (mut bad, mut good) = (daemon.client(), daemon.client());
    good.write("/a", b"1");
    bad.stream.write_all(&[0xff; 64]).unwrap();
    assert_eq!(bad.receive(), None);
    assert_eq!(good.read("/a"), b"1");
}

#[test]
fn a_client_that_half_closes_still_gets_its_answers() {
    let daemon = Daemon::new();
    let mut client = daemon.client();
    for _ in 0..500 {
        client.send(XS_WRITE, b"/half\0value");
    }
    client.stream.shutdown(Shutdown::Write).unwrap();
    for _ in 0..500 {
        assert_eq!(client.receive().unwrap().payload, b"OK\0");
    }
    assert_eq!(client.receive(), None, "and then the end");
}

#[test]
fn a_client_that_dies_in_a_message_leaves_nothing() {
    let daemon = Daemon::new();
    let mut good = daemon.client();
    good.write("/a", b"1");
    for _ in 0..100 {
        let mut dying = daemon.client();
        let bytes = dying.message(XS_WRITE, b"/half\0value");
        dying.stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
    }
    assert_eq!(good.ask(XS_READ, b"/half\0").payload, b"ENOENT\0");
}

#[test]
fn a_client_that_never_reads_is_not_listened_to() {
    let daemon = Daemon::new();
    let (mut deaf, mut good) = (daemon.client(), daemon.client());
    good.write("/big", &[b'x'; 2000]);
    let bytes = deaf.message(XS_READ, b"/big\0").repeat(64);
    deaf.stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut sent = 0_usize;
    while let Ok(more) = deaf.stream.write(&bytes) {
        sent += more;
        assert!(sent < 64 << 20, "the daemon takes whatever comes");
    }
    assert_eq!(good.read("/big").len(), 2000, "others are served");
    // What was taken is answered, once it reads.
    let whole = sent / (bytes.len() / 64);
    for _ in 0..whole {
        assert_eq!(deaf.receive().unwrap().payload.len(), 2000);
    }
}
