//! A guest's ring and the server, over real shared memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cantle_abi::io::xs_wire::{
    XENSTORE_ERROR_OFFSET, XENSTORE_RSP, XENSTORE_SERVER_FEATURES_OFFSET, XS_DIRECTORY, XS_ERROR,
    XS_READ, XS_WATCH, XS_WRITE,
};
use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, Errno, SharedMemory};
use cantle_xenstore::prelude::*;
use cantle_xenstore::server::Closed;
use cantle_xenstore::transport::ring_client::RingClient;
use cantle_xenstore::transport::{Pumped, Ring, RingFault};
use cantle_xenstore::{Access, LocalClient, Perms, Shared, TxId};

const GUEST: DomId = DomId(3);
const NONE: TxId = TxId::NONE;

struct World {
    page: Arc<HeapPages>,
    store: Shared,
    dom0: LocalClient,
    ring: Ring<Arc<HeapPages>>,
    guest: RingClient<Arc<HeapPages>>,
    woken: Arc<AtomicU32>,
}

fn world() -> World {
    let store = Shared::default();
    let dom0 = store.client(DomId::DOM0).unwrap();
    dom0.mkdir(NONE, "/local/domain/3").unwrap();
    dom0.set_perms(NONE, "/local/domain/3", &Perms::new(GUEST, Access::None))
        .unwrap();
    store.introduce(GUEST).unwrap();
    let page = Arc::new(HeapPages::new(1));
    let woken = Arc::new(AtomicU32::new(0));
    let count = woken.clone();
    let waker = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    World {
        ring: Ring::connect(&store, GUEST, page.clone(), waker),
        guest: RingClient::new(page.clone()),
        page,
        store,
        dom0,
        woken,
    }
}

/// Runs both sides until neither moves anything.
fn settle(world: &mut World) {
    loop {
        let pumped = world.ring.pump(|| {});
        let moved = world.guest.pump().unwrap();
        if !moved && pumped != Pumped::More {
            break;
        }
    }
}

fn put(page: &HeapPages, offset: usize, value: u32) {
    word(page, offset).store(value, Ordering::SeqCst);
}

fn get(page: &HeapPages, offset: usize) -> u32 {
    word(page, offset).load(Ordering::SeqCst)
}

fn word(page: &HeapPages, offset: usize) -> &AtomicU32 {
    assert!(offset + 4 <= page.len() && offset.is_multiple_of(4));
    #[expect(
        unsafe_code,
        reason = "the test scribbles over the page as a guest may"
    )]
    // SAFETY: inside the page and aligned, by the assertion; the page outlives the borrow.
    unsafe {
        AtomicU32::from_ptr(page.as_ptr().add(offset).cast().as_ptr())
    }
}

#[test]
fn a_header_across_the_end_of_the_ring_is_one_header() {
    for start in 1000..1030_u32 {
        let mut world = world();
        for offset in [2048, 2052, 2056, 2060] {
            put(&world.page, offset, start);
        }
        let written = world
            .guest
            .send(XS_WRITE, NONE, &[b"a\0", b"value"])
            .unwrap();
        let read = world.guest.send(XS_READ, NONE, &[b"a\0"]).unwrap();
        settle(&mut world);
        let ack = world.guest.take_reply().unwrap();
        assert_eq!(
            (ack.req_id, ack.result),
            (written, Ok(b"OK\0".to_vec())),
            "start {start}"
        );
        let value = world.guest.take_reply().unwrap();
        assert_eq!((value.req_id, value.result), (read, Ok(b"value".to_vec())));
    }
}

#[test]
fn indices_wrap_around_32_bits() {
    let mut world = world();
    for offset in [2048, 2052, 2056, 2060] {
        put(&world.page, offset, u32::MAX - 10);
    }
    world
        .guest
        .send(XS_WRITE, NONE, &[b"a\0", b"value"])
        .unwrap();
    settle(&mut world);
    assert_eq!(
        world.guest.take_reply().unwrap().result,
        Ok(b"OK\0".to_vec())
    );
}

#[test]
fn many_requests_outstanding_are_answered_in_order() {
    let mut world = world();
    let mut expected = HashMap::new();
    let mut order = Vec::new();
    for number in 0..2000_u32 {
        let path = format!("node{}\0", number % 50);
        let value = vec![b'x'; (number as usize * 37) % 1800];
        order.push(
            world
                .guest
                .send(XS_WRITE, NONE, &[path.as_bytes(), &value])
                .unwrap(),
        );
        let read = world.guest.send(XS_READ, NONE, &[path.as_bytes()]).unwrap();
        order.push(read);
        expected.insert(read, value);
    }
    settle(&mut world);
    for req_id in order {
        let reply = world.guest.take_reply().expect("every request is answered");
        assert_eq!(reply.req_id, req_id);
        let value = expected.remove(&req_id).unwrap_or_else(|| b"OK\0".to_vec());
        assert_eq!(reply.result, Ok(value));
    }
    assert_eq!(world.guest.take_reply(), None);
}

#[test]
fn another_partys_write_wakes_the_ring() {
    let mut world = world();
    world
        .guest
        .send(XS_WATCH, NONE, &[b"state\0token\0"])
        .unwrap();
    settle(&mut world);
    assert_eq!(
        world.guest.take_reply().unwrap().result,
        Ok(b"OK\0".to_vec())
    );
    let event = world.guest.take_event().unwrap();
    assert_eq!(
        (event.path.as_str(), event.token.as_str()),
        ("state", "token")
    );
    assert_eq!(
        world.woken.load(Ordering::Relaxed),
        0,
        "one's own requests need no waking"
    );
    world
        .dom0
        .write(NONE, "/local/domain/3/state", b"4")
        .unwrap();
    assert_eq!(world.woken.load(Ordering::Relaxed), 1);
    let mut notified = 0;
    assert_eq!(world.ring.pump(|| notified += 1), Pumped::Idle);
    assert_eq!(notified, 1);
    world.guest.pump().unwrap();
    assert_eq!(world.guest.take_event().unwrap().path, "state");
    assert_eq!(world.ring.pump(|| notified += 1), Pumped::Idle);
    assert_eq!(notified, 1, "nothing new, no notification");
}

#[test]
fn impossible_indices_end_this_connection_only() {
    for (offset, value) in [
        (2052, 1025),
        (2052, u32::MAX),
        (2056, 1),
        (2048, 5),
        (2060, 2000),
    ] {
        let mut world = world();
        world.dom0.watch("@releaseDomain", "released").unwrap();
        world.dom0.take_event().unwrap();
        put(&world.page, offset, value);
        let mut notified = 0;
        let pumped = world.ring.pump(|| notified += 1);
        assert!(
            matches!(pumped, Pumped::Broken(RingFault::Index(_))),
            "{offset}: {pumped:?}"
        );
        assert_eq!(notified, 1);
        assert_eq!(get(&world.page, XENSTORE_ERROR_OFFSET), 2);
        assert_eq!(world.ring.pump(|| panic!("no more")), pumped);
        // XSA-325: a client that misbehaves is no domain that is gone.
        assert_eq!(world.dom0.take_event(), None);
        assert!(world.store.with(|server| server.is_introduced(GUEST)));
        world.dom0.write(NONE, "/a", b"others go on").unwrap();
    }
}

#[test]
fn a_message_too_long_ends_the_connection() {
    let mut world = world();
    let mut bytes = Vec::new();
    cantle_xenstore::wire::emit(&mut bytes, XS_READ, 1, 0, &[b"a\0"]).unwrap();
    bytes[12..16].copy_from_slice(&4097_u32.to_le_bytes());
    world.guest.send_raw(&bytes);
    world.guest.pump().unwrap();
    let pumped = world.ring.pump(|| {});
    assert!(matches!(
        pumped,
        Pumped::Broken(RingFault::Closed(Closed::Protocol(_)))
    ));
    assert_eq!(get(&world.page, XENSTORE_ERROR_OFFSET), 3);
}

#[test]
fn a_released_domain_has_no_ring_any_more() {
    let mut world = world();
    world.store.release(GUEST).unwrap();
    world.guest.send(XS_READ, NONE, &[b"a\0"]).unwrap();
    world.guest.pump().unwrap();
    assert_eq!(
        world.ring.pump(|| {}),
        Pumped::Broken(RingFault::Closed(Closed::Unknown))
    );
}

#[test]
fn requests_are_not_lost_while_replies_are_unread() {
    let mut world = world();
    let value = vec![b'v'; 2000];
    world
        .guest
        .send(XS_WRITE, NONE, &[b"big\0", &value])
        .unwrap();
    for _ in 0..500 {
        world.guest.send(XS_READ, NONE, &[b"big\0"]).unwrap();
    }
    // The guest keeps writing and never reads: the server stops listening instead of storing a megabyte.
    while world.guest.push().unwrap() {
        world.ring.pump(|| {});
    }
    assert!(!world.guest.is_flushed());
    let waiting = world
        .store
        .with(|server| server.output(world.ring.conn(), usize::MAX).len());
    assert!(waiting < 20 * 1024, "{waiting} bytes wait");
    settle(&mut world);
    assert!(world.guest.is_flushed());
    let mut replies = 0;
    while world.guest.take_reply().is_some() {
        replies += 1;
    }
    assert_eq!(replies, 501);
}

#[test]
fn the_server_says_that_it_reports_errors_and_can_reconnect() {
    let world = world();
    assert_eq!(get(&world.page, XENSTORE_SERVER_FEATURES_OFFSET) & 3, 3);
    assert_eq!(get(&world.page, XENSTORE_ERROR_OFFSET), 0);
}

#[test]
fn errors_come_as_strings() {
    let mut world = world();
    let raw = world
        .guest
        .send(XS_DIRECTORY, NONE, &[b"nothing\0"])
        .unwrap();
    settle(&mut world);
    let reply = world.guest.take_reply().unwrap();
    assert_eq!(reply.req_id, raw);
    assert_eq!(reply.kind, XS_ERROR);
    assert_eq!(reply.result, Err(Errno::ENOENT));
    assert_eq!(XENSTORE_RSP.readable(&world.page).unwrap(), 0);
}
