//! Guests at rings, in the same loop as sockets.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cantle_abi::io::xs_wire::{
    XENSTORE_CONNECTION_OFFSET, XENSTORE_ERROR_OFFSET, XS_READ, XS_WATCH, XS_WRITE,
};
use cantle_abi::ring::HeapPages;
use cantle_abi::{DomId, SharedMemory};
use cantle_xenstore::transport::Ring;
use cantle_xenstore::transport::ring_client::RingClient;
use cantle_xenstore::transport::service::{RingChannel, Served};
use cantle_xenstore::{Service, Shared, TxId};
use rustix::event::{EventfdFlags, eventfd};

use crate::raw::Client;

/// A guest whose ring is served.
pub(crate) struct Guest {
    pub(crate) page: Arc<HeapPages>,
    pub(crate) ring: RingClient<Arc<HeapPages>>,
    signal: OwnedFd,
    pub(crate) notified: Arc<AtomicU32>,
}

impl Guest {
    pub(crate) fn new(service: &mut Service, domid: DomId) -> Self {
        let store = service.store().clone();
        store.introduce(domid).unwrap();
        let page = Arc::new(HeapPages::new(1));
        let ring = Ring::connect(&store, domid, page.clone(), Arc::new(|| ()));
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let notified = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&notified);
        let channel = RingChannel {
            signal: signal.try_clone().unwrap(),
            notify: Box::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            }),
        };
        service.add_ring(ring, Vec::new(), channel).unwrap();
        Self {
            ring: RingClient::new(page.clone()),
            page,
            signal,
            notified,
        }
    }

    pub(crate) fn signal(&self) {
        rustix::io::write(&self.signal, &1_u64.to_ne_bytes()).unwrap();
    }

    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= self.page.len() && offset.is_multiple_of(4));
        #[expect(unsafe_code, reason = "the test is the guest and writes what it wants")]
        // SAFETY: inside the page and aligned, by the assertion; the page outlives the borrow.
        unsafe {
            AtomicU32::from_ptr(self.page.as_ptr().add(offset).cast().as_ptr())
        }
    }
}

fn rounds(service: &mut Service, count: u32) {
    for _ in 0..count {
        service.run_once(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn a_guest_and_a_socket_see_each_other() {
    let store = Shared::default();
    let mut service = Service::new(store).unwrap();
    let mut guest = Guest::new(&mut service, DomId(5));
    let (ours, theirs) = UnixStream::pair().unwrap();
    service.connect(ours).unwrap();
    let mut client = Client::new(theirs);
    rounds(&mut service, 3);

    guest
        .ring
        .send(XS_WATCH, TxId::NONE, &[b"/a\0t\0"])
        .unwrap();
    guest.ring.pump().unwrap();
    guest.signal();
    rounds(&mut service, 3);
    assert_eq!(guest.notified.load(Ordering::SeqCst), 1, "once for a batch");
    guest.ring.pump().unwrap();
    assert!(guest.ring.take_reply().unwrap().result.is_ok());
    guest.ring.take_event().unwrap();

    // May domain 5 read it? Then it is told.
    client.send(XS_WRITE, b"/a\0value");
    client.send(cantle_abi::io::xs_wire::XS_SET_PERMS, b"/a\0r0\0");
    client.send(XS_WRITE, b"/a\0other");
    rounds(&mut service, 3);
    for _ in 0..3 {
        assert_eq!(client.receive().unwrap().payload, b"OK\0");
    }
    guest.ring.pump().unwrap();
    assert_eq!(guest.ring.take_event().unwrap().path, "/a");
    assert_eq!(guest.notified.load(Ordering::SeqCst), 2);
    rounds(&mut service, 5);
    assert_eq!(guest.notified.load(Ordering::SeqCst), 2, "nothing new");
}

#[test]
fn a_ring_of_requests_is_served_to_its_end() {
    let mut service = Service::new(Shared::default()).unwrap();
    let mut guest = Guest::new(&mut service, DomId(5));
    let mut sent = Vec::new();
    for _ in 0..1000 {
        sent.push(guest.ring.send(XS_READ, TxId::NONE, &[b"/\0"]).unwrap());
    }
    let mut answers = 0;
    for _ in 0..4000 {
        // The guest signals only where it moved something.
        if guest.ring.pump().unwrap() {
            guest.signal();
        }
        service.run_once(Some(Duration::ZERO)).unwrap();
        while let Some(reply) = guest.ring.take_reply() {
            assert_eq!(reply.req_id, sent[answers]);
            answers += 1;
        }
    }
    assert_eq!(answers, 1000);
}

#[test]
fn a_guest_breaks_its_ring_and_reconnects() {
    let mut service = Service::new(Shared::default()).unwrap();
    let mut guest = Guest::new(&mut service, DomId(5));
    let mut other = Guest::new(&mut service, DomId(6));
    guest.word(2052).store(4000, Ordering::SeqCst);
    guest.signal();
    rounds(&mut service, 3);
    assert_eq!(guest.word(XENSTORE_ERROR_OFFSET).load(Ordering::SeqCst), 2);
    assert_eq!(guest.notified.load(Ordering::SeqCst), 1);
    guest.signal();
    rounds(&mut service, 3);
    assert_eq!(guest.notified.load(Ordering::SeqCst), 1, "it is left alone");

    guest
        .word(XENSTORE_CONNECTION_OFFSET)
        .store(1, Ordering::SeqCst);
    guest.signal();
    rounds(&mut service, 3);
    assert_eq!(
        guest
            .word(XENSTORE_CONNECTION_OFFSET)
            .load(Ordering::SeqCst),
        0
    );
    assert_eq!(guest.notified.load(Ordering::SeqCst), 2);
    for guest in [&mut guest, &mut other] {
        guest.ring = RingClient::new(guest.page.clone());
        guest.ring.send(XS_WATCH, TxId::NONE, &[b"a\0t\0"]).unwrap();
        guest.ring.pump().unwrap();
        guest.signal();
        rounds(&mut service, 3);
        guest.ring.pump().unwrap();
        assert_eq!(guest.ring.take_reply().unwrap().result.unwrap(), b"OK\0");
        assert!(
            guest.ring.take_event().is_some(),
            "the new connection has a waker"
        );
    }
    assert_eq!(service.connections().count(), 2);
}

#[test]
fn a_released_domains_ring_is_dropped() {
    let store = Shared::default();
    let mut service = Service::new(store.clone()).unwrap();
    let guest = Guest::new(&mut service, DomId(5));
    let _other = Guest::new(&mut service, DomId(6));
    rounds(&mut service, 1);
    store.release(DomId(5)).unwrap();
    assert!(service.remove_ring(DomId(5)));
    assert!(!service.remove_ring(DomId(5)));
    assert_eq!(Arc::strong_count(&guest.page), 2, "the guest's own two");
    let left: Vec<_> = service.connections().collect();
    assert!(matches!(
        &left[..],
        [Served::Ring {
            domid: DomId(6),
            ..
        }]
    ));
}
