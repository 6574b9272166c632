//! A guest that asks for a new connection, and what must be left of the old one: nothing.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cantle_abi::io::xs_wire::{
    XENSTORE_CONNECTION_OFFSET, XENSTORE_ERROR_OFFSET, XS_READ, XS_TRANSACTION_END,
    XS_TRANSACTION_START, XS_WATCH, XS_WRITE,
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
const INDICES: [usize; 4] = [2048, 2052, 2056, 2060];

struct World {
    page: Arc<HeapPages>,
    store: Shared,
    dom0: LocalClient,
    ring: Ring<Arc<HeapPages>>,
    guest: RingClient<Arc<HeapPages>>,
}

impl World {
    fn new() -> Self {
        Self::with_page(Arc::new(HeapPages::new(1)))
    }

    fn with_page(page: Arc<HeapPages>) -> Self {
        let store = Shared::default();
        let dom0 = store.client(DomId::DOM0).unwrap();
        dom0.mkdir(NONE, "/local/domain/3").unwrap();
        dom0.set_perms(NONE, "/local/domain/3", &Perms::new(GUEST, Access::None))
            .unwrap();
        store.introduce(GUEST).unwrap();
        Self {
            ring: Ring::connect(&store, GUEST, page.clone(), Arc::new(|| ())),
            guest: RingClient::new(page.clone()),
            page,
            store,
            dom0,
        }
    }

    fn put(&self, offset: usize, value: u32) {
        word(&self.page, offset).store(value, Ordering::SeqCst);
    }

    fn get(&self, offset: usize) -> u32 {
        word(&self.page, offset).load(Ordering::SeqCst)
    }

    /// Asks for a new connection as a guest does, and begins anew when it has it.
    fn reconnect(&mut self) -> Pumped {
        self.put(XENSTORE_CONNECTION_OFFSET, 1);
        let mut notified = 0;
        let pumped = self.ring.pump(|| notified += 1);
        if self.get(XENSTORE_CONNECTION_OFFSET) == 0 {
            assert_eq!(notified, 1, "the guest waits for the signal");
            self.guest = RingClient::new(self.page.clone());
        }
        pumped
    }

    fn settle(&mut self) {
        loop {
            let pumped = self.ring.pump(|| {});
            if !self.guest.pump().unwrap() && pumped != Pumped::More {
                break;
            }
        }
    }

    /// One request and its answer.
    fn ask(
        &mut self,
        op: cantle_abi::io::xs_wire::XsType,
        tx: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let sent = self.guest.send(op, TxId(tx), &[payload]).unwrap();
        self.settle();
        let reply = self.guest.take_reply().expect("an answer");
        assert_eq!(reply.req_id, sent);
        reply.result
    }
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
fn a_reconnection_forgets_everything() {
    let mut world = World::new();
    assert_eq!(world.ask(XS_WATCH, 0, b"state\0token\0").unwrap(), b"OK\0");
    world.guest.take_event().unwrap();
    let tx = world.ask(XS_TRANSACTION_START, 0, b"\0").unwrap();
    assert_eq!(tx, b"1\0");
    // Replies and an event that nobody reads, and half a message.
    for _ in 0..50 {
        world
            .guest
            .send(XS_READ, NONE, &[b"/local/domain/3\0"])
            .unwrap();
    }
    world.guest.push().unwrap();
    world.ring.pump(|| {});
    world
        .dom0
        .write(NONE, "/local/domain/3/state", b"1")
        .unwrap();
    world.guest.send_raw(&[0x0b, 0, 0]);
    world.guest.push().unwrap();
    world.ring.pump(|| {});
    let before = world.ring.conn();

    assert_eq!(world.reconnect(), Pumped::Idle);
    for offset in INDICES {
        assert_eq!(world.get(offset), 0, "the rings are empty");
    }
    assert_ne!(world.ring.conn(), before);
    world
        .dom0
        .write(NONE, "/local/domain/3/state", b"2")
        .unwrap();
    world.settle();
    assert_eq!(world.guest.take_event(), None, "the watch is gone");
    assert_eq!(world.guest.take_reply(), None, "and the answers");
    let ended = world.ask(XS_TRANSACTION_END, 1, b"T\0");
    assert_eq!(ended, Err(Errno::ENOENT), "and the transaction");
    assert_eq!(world.ask(XS_READ, 0, b"state\0").unwrap(), b"2");
    let watched = world.ask(XS_WATCH, 0, b"state\0token\0");
    assert_eq!(watched.unwrap(), b"OK\0", "it was not there any more");
    let stats = world.store.with(|server| server.stats());
    let guest = stats.iter().find(|one| one.domid == GUEST).unwrap();
    assert_eq!(
        (guest.connections, guest.watches, guest.transactions),
        (1, 1, 0)
    );
}

#[test]
fn a_page_that_was_found_reconnecting_is_reset_first() {
    let page = Arc::new(HeapPages::new(1));
    word(&page, XENSTORE_CONNECTION_OFFSET).store(1, Ordering::SeqCst);
    // Whatever is in the other fields is to be ignored.
    for offset in INDICES {
        word(&page, offset).store(
            0xdead_0000 + u32::try_from(offset).unwrap() * 9,
            Ordering::SeqCst,
        );
    }
    let mut world = World::with_page(page);
    let mut notified = 0;
    assert_eq!(world.ring.pump(|| notified += 1), Pumped::Idle);
    assert_eq!(notified, 1);
    assert_eq!(world.get(XENSTORE_CONNECTION_OFFSET), 0);
    assert_eq!(world.ask(XS_WRITE, 0, b"a\0value").unwrap(), b"OK\0");
}

#[test]
fn a_broken_ring_works_again_when_the_guest_asks() {
    for protocol in [false, true] {
        let mut world = World::new();
        world.ask(XS_WATCH, 0, b"state\0token\0").unwrap();
        if protocol {
            world.guest.send_raw(&[0xff; 16]);
            world.guest.push().unwrap();
        } else {
            world.put(2052, 5000);
        }
        assert!(matches!(world.ring.pump(|| {}), Pumped::Broken(_)));
        assert_eq!(
            world.get(XENSTORE_ERROR_OFFSET),
            if protocol { 3 } else { 2 }
        );
        world.store.with(|server| {
            let watches: u64 = server
                .stats()
                .iter()
                .filter(|one| one.domid == GUEST)
                .map(|one| one.watches)
                .sum();
            assert_eq!(watches, 0, "it is forgotten at once");
        });
        assert_eq!(world.reconnect(), Pumped::Idle);
        assert_eq!(world.get(XENSTORE_ERROR_OFFSET), 0);
        assert_eq!(world.ask(XS_WRITE, 0, b"a\0value").unwrap(), b"OK\0");
    }
}

#[test]
fn a_domain_that_is_gone_gets_no_new_connection() {
    for broken in [false, true] {
        let mut world = World::new();
        if broken {
            world.put(2052, 5000);
            assert!(matches!(world.ring.pump(|| {}), Pumped::Broken(_)));
        }
        world.store.release(GUEST).unwrap();
        // The next of that number has nothing to do with this page.
        world.store.introduce(GUEST).unwrap();
        let gone = Pumped::Broken(RingFault::Closed(Closed::Unknown));
        assert_eq!(world.reconnect(), gone);
        assert_eq!(world.get(XENSTORE_CONNECTION_OFFSET), 1);
        assert_eq!(world.reconnect(), gone);
    }
}

#[test]
fn an_interrupted_ring_says_so_and_waits() {
    let mut world = World::new();
    world.ring.interrupt();
    assert_eq!(world.get(XENSTORE_ERROR_OFFSET), 1);
    assert_eq!(
        world.ring.pump(|| {}),
        Pumped::Broken(RingFault::Interrupted)
    );
    assert_eq!(world.reconnect(), Pumped::Idle);
    assert_eq!(world.ask(XS_WRITE, 0, b"a\0value").unwrap(), b"OK\0");
}

#[test]
fn a_guest_that_keeps_asking_gets_one_connection_for_each_signal() {
    let mut world = World::new();
    for _ in 0..100 {
        let before = world.ring.conn();
        assert_eq!(world.reconnect(), Pumped::Idle);
        assert_ne!(world.ring.conn(), before);
    }
    assert_eq!(world.ask(XS_WRITE, 0, b"a\0value").unwrap(), b"OK\0");
}

#[test]
fn an_adopted_ring_goes_on_where_it_was() {
    let mut world = World::new();
    for offset in INDICES {
        world.put(offset, u32::MAX - 20);
    }
    world.ask(XS_WATCH, 0, b"state\0token\0").unwrap();
    world.guest.take_event().unwrap();
    // Half a message is in the server, the other half in the page.
    let mut bytes = Vec::new();
    cantle_xenstore::wire::emit(&mut bytes, XS_READ, 77, 0, &[b"state\0"]).unwrap();
    world.guest.send_raw(&bytes[..9]);
    world.guest.push().unwrap();
    world.ring.pump(|| {});
    world.guest.send_raw(&bytes[9..]);
    world.guest.push().unwrap();
    let indices = INDICES.map(|offset| world.get(offset));
    let conn = world.ring.conn();
    // The process is replaced: nothing of the ring is dropped in order.
    let next = Ring::adopt(&world.store, conn, GUEST, world.page.clone());
    std::mem::forget(std::mem::replace(&mut world.ring, next));
    assert_eq!(INDICES.map(|offset| world.get(offset)), indices);
    world
        .dom0
        .write(NONE, "/local/domain/3/state", b"1")
        .unwrap();
    world.settle();
    assert_eq!(world.guest.take_event().unwrap().path, "state");
    let reply = world.guest.take_reply().unwrap();
    assert_eq!((reply.req_id, reply.result), (77, Ok(b"1".to_vec())));
}

/// QEMU's emulated xenstore stopped for ever once a header lay across the ring's end while more requests were outstanding:
/// Linux publishes such a header in two pieces.
#[test]
fn xenstore_ring_stall() {
    let mut world = World::new();
    let mut bytes = Vec::new();
    for number in 0..3000_u32 {
        let path = format!("n{}\0", "x".repeat(number as usize % 23));
        cantle_xenstore::wire::emit(&mut bytes, XS_WRITE, number, 0, &[path.as_bytes(), b"v"])
            .unwrap();
    }
    let mut rest = &bytes[..];
    let mut answered = 0;
    let mut idle = 0;
    while answered < 3000 {
        // As Linux does: up to the ring's end, then the rest, each published for itself; the server looks in between.
        let to_end = 1024 - (world.get(2052) % 1024) as usize;
        let (piece, after) = rest.split_at(to_end.min(rest.len()).min(300));
        if world.guest.is_flushed() {
            world.guest.send_raw(piece);
            rest = after;
        }
        world.guest.push().unwrap();
        world.ring.pump(|| {});
        // Two users, the second of which reads now and then only.
        if answered % 7 != 0 || idle > 3 {
            world.guest.pull().unwrap();
        }
        let mut more = 0;
        while let Some(reply) = world.guest.take_reply() {
            assert_eq!(
                (reply.req_id, reply.result),
                (answered, Ok(b"OK\0".to_vec()))
            );
            answered += 1;
            more += 1;
        }
        idle = if more > 0 { 0 } else { idle + 1 };
        assert!(idle < 100, "stalled after {answered}");
    }
}

#[test]
fn a_guest_that_scribbles_meanwhile_harms_nobody() {
    let mut world = World::new();
    let stop = AtomicBool::new(false);
    let page = &*world.page;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x1234_5678_u32;
            while !stop.load(Ordering::Relaxed) {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                // Mostly small indices and the fields beside them, sometimes anything.
                let offset = match random % 4 {
                    0 => random as usize / 4 % 512 * 4,
                    _ => 2048 + random as usize / 16 % 8 * 4,
                };
                let value = if random & 0x1000 == 0 {
                    random >> 21
                } else {
                    random % 3
                };
                word(page, offset).store(value, Ordering::Relaxed);
            }
        });
        for round in 0..20_000_u32 {
            world.ring.pump(|| {});
            if round % 100 == 0 {
                world
                    .dom0
                    .write(NONE, "/others", &round.to_le_bytes())
                    .unwrap();
                assert_eq!(
                    world.dom0.read(NONE, "/others").unwrap(),
                    round.to_le_bytes()
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(world.reconnect(), Pumped::Idle);
    world.ask(XS_WRITE, 0, b"a\0value").unwrap();
}
