//! Servers that are none, and the kernel's device, which takes one message at a time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{XS_READ, XS_WATCH_EVENT, XS_WRITE};
use cantle_xenstore::TxId;
use cantle_xenstore::client::{Broken, Lost, SocketClient};
use cantle_xenstore::prelude::*;
use cantle_xenstore::wire::{self, HEADER_SIZE, Message};

use crate::watching::next;

const NONE: TxId = TxId::NONE;

fn pair() -> (SocketClient, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (SocketClient::from_stream(ours).unwrap(), theirs)
}

/// What one request meets whose server sends this.
fn answered_by(answer: &[u8]) -> (SocketClient, Errno) {
    let (client, mut server) = pair();
    server.write_all(answer).unwrap();
    let error = client.read(NONE, "/a").unwrap_err();
    assert!(!client.is_connected());
    let again = client.read(NONE, "/a").unwrap_err();
    assert_eq!(again.errno, Errno::EIO);
    (client, error.errno)
}

#[test]
fn a_server_that_breaks_the_protocol_is_given_up() {
    let mut unasked = Vec::new();
    wire::emit(&mut unasked, XS_READ, 77, 0, &[b"v"]).unwrap();
    let mut wrong = Vec::new();
    wire::emit(&mut wrong, XS_WRITE, 1, 0, &[b"OK\0"]).unwrap();
    let mut event = Vec::new();
    wire::emit(&mut event, XS_WATCH_EVENT, 0, 0, &[b"no strings"]).unwrap();
    let mut long = unasked.clone();
    long[12..16].copy_from_slice(&5000_u32.to_le_bytes());
    for answer in [unasked, wrong, event, long] {
        let (client, errno) = answered_by(&answer);
        assert_eq!(errno, Errno::EIO);
        assert!(matches!(client.lost(), Some(Lost::Broken(_))), "{client:?}");
        assert_eq!(next(&client), None, "who waits for events is told");
    }
    let (client, _) = answered_by(b"HTTP/1.1 400 Bad Request\r\n");
    let Some(Lost::Broken(Broken::TooLong(_))) = client.lost() else {
        panic!("{:?}", client.lost());
    };
}

#[test]
fn a_server_that_ends_within_a_message_is_a_loss() {
    let (client, mut server) = pair();
    server.write_all(&[0; HEADER_SIZE - 1]).unwrap();
    drop(server);
    let error = client.read(NONE, "/a").unwrap_err();
    assert_eq!(error.errno, Errno::EIO);
    assert_eq!(client.lost(), Some(Lost::Closed));
    let error = client.reconnect().unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_flood_of_events_keeps_neither_memory_nor_replies() {
    let (client, mut server) = pair();
    thread::scope(|scope| {
        scope.spawn(|| {
            client.watch("/a", "t").unwrap();
            assert_eq!(client.read(NONE, "/a").unwrap(), b"here");
        });
        let request = take(&mut server);
        wire::emit(&mut Vec::new(), XS_READ, 0, 0, &[]).unwrap();
        let mut bytes = Vec::new();
        let header = Message::parse(&request).unwrap().unwrap().0.header;
        wire::emit(&mut bytes, header.kind, header.req_id, 0, &[b"OK\0"]).unwrap();
        server.write_all(&bytes).unwrap();
        let request = take(&mut server);
        let header = Message::parse(&request).unwrap().unwrap().0.header;
        let mut events = Vec::new();
        for number in 0..1000 {
            let path = format!("/a/{number}/{}\0t\0", "x".repeat(1000));
            wire::emit(&mut events, XS_WATCH_EVENT, 0, 0, &[path.as_bytes()]).unwrap();
        }
        for _ in 0..50 {
            server.write_all(&events).unwrap();
        }
        let mut bytes = Vec::new();
        wire::emit(&mut bytes, header.kind, header.req_id, 0, &[b"here"]).unwrap();
        server.write_all(&bytes).unwrap();
    });
    let waiting: Vec<_> = std::iter::from_fn(|| client.take_event()).collect();
    let bytes: usize = waiting.iter().map(|event| event.path.len()).sum();
    assert!(bytes < 512 << 10, "{bytes}");
    assert_eq!(waiting.last().unwrap().path, "/a", "look everywhere");
}

/// One message.
fn take(server: &mut UnixStream) -> Vec<u8> {
    let mut message = vec![0; HEADER_SIZE];
    server.read_exact(&mut message).unwrap();
    let length = Message::length(&message).unwrap().unwrap();
    message.resize(length, 0);
    server.read_exact(&mut message[HEADER_SIZE..]).unwrap();
    message
}
