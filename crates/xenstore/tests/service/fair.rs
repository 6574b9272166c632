//! Who has much to say waits for those who have little. Counted in turns, not in time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cantle_abi::DomId;
use cantle_abi::io::xs_wire::{XS_READ, XS_RM};
use cantle_xenstore::prelude::*;
use cantle_xenstore::{Service, Shared, TxId};

use crate::raw::Client;
use crate::rings::Guest;

/// The work that a turn allows, as the service has it.
const QUANTUM: usize = 64;

fn joined(service: &mut Service) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    service.connect(ours).unwrap();
    Client::new(theirs)
}

/// Sends many requests at once.
fn flood(client: &mut Client) {
    let message = client.message(XS_READ, b"/\0");
    client
        .stream
        .write_all(&message.repeat(50 * QUANTUM))
        .unwrap();
}

/// The answers that are there.
fn answers(client: &mut Client) -> usize {
    let mut bytes = vec![0; 1 << 20];
    client.stream.set_nonblocking(true).unwrap();
    let len = client.stream.read(&mut bytes).unwrap_or(0);
    client.stream.set_nonblocking(false).unwrap();
    // The root's value is empty: an answer is a header.
    assert!(len.is_multiple_of(16));
    len / 16
}

#[test]
fn a_flooding_socket_delays_another_by_one_turn() {
    let mut service = Service::new(Shared::default()).unwrap();
    let mut flooder = joined(&mut service);
    let mut quiet = joined(&mut service);
    service.run_once(Some(Duration::ZERO)).unwrap();
    flood(&mut flooder);
    // It has a turn of its own first, so that it is known to have more.
    service.run_once(Some(Duration::ZERO)).unwrap();
    assert_eq!(answers(&mut flooder), QUANTUM);
    for _ in 0..5 {
        quiet.send(XS_READ, b"/\0");
        service.run_once(Some(Duration::ZERO)).unwrap();
        assert_eq!(answers(&mut quiet), 1, "served in the next batch");
        assert_eq!(
            answers(&mut flooder),
            QUANTUM,
            "beside one turn of the other"
        );
    }
}

#[test]
fn a_flooding_ring_delays_another_by_one_turn() {
    let mut service = Service::new(Shared::default()).unwrap();
    let mut guest = Guest::new(&mut service, DomId(5));
    let mut quiet = joined(&mut service);
    service.run_once(Some(Duration::ZERO)).unwrap();
    for _ in 0..10_000 {
        guest.ring.send(XS_READ, TxId::NONE, &[b"/\0"]).unwrap();
    }
    let mut before = 0;
    for _ in 0..20 {
        // The ring is full whenever the service looks.
        guest.ring.pump().unwrap();
        guest.signal();
        quiet.send(XS_READ, b"/\0");
        service.run_once(Some(Duration::ZERO)).unwrap();
        assert_eq!(answers(&mut quiet), 1);
        guest.ring.pull().unwrap();
        let mut now = before;
        while guest.ring.take_reply().is_some() {
            now += 1;
        }
        assert!(now - before <= QUANTUM, "{} in one turn", now - before);
        before = now;
    }
    assert!(before > 300, "and the guest is served, too: {before}");
}

#[test]
fn work_beyond_a_turn_is_a_debt() {
    let store = Shared::default();
    let mut service = Service::new(store.clone()).unwrap();
    let dom0 = store.client(DomId::DOM0).unwrap();
    for name in 0..2000 {
        dom0.write(TxId::NONE, &format!("/big/{name}"), b"")
            .unwrap();
    }
    let mut flooder = joined(&mut service);
    let mut other = joined(&mut service);
    service.run_once(Some(Duration::ZERO)).unwrap();
    flooder.send(XS_RM, b"/big\0");
    for _ in 0..3 {
        flooder.send(XS_READ, b"/\0");
    }
    flood(&mut other);
    service.run_once(Some(Duration::ZERO)).unwrap();
    let gone = flooder.receive().unwrap();
    assert_eq!(gone.payload, b"OK\0");
    // Its next request waits while the other has turns that make up for the removal, and then it is served.
    let mut turns = 0;
    while answers(&mut flooder) == 0 {
        service.run_once(Some(Duration::ZERO)).unwrap();
        if answers(&mut other) == 0 {
            flood(&mut other);
        }
        turns += 1;
        assert!(turns < 1000, "it is not forgotten");
    }
    assert!(turns >= 2000 / QUANTUM / 2, "{turns}");
}
