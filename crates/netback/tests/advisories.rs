//! The known wounds of network back ends, each by its name: what a guest must not be able to do.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cantle_abi::io::netif::{
    NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NETTXF_extra_info, NETTXF_more_data,
    NetifExtraInfo, NetifTxRequest, XEN_NETIF_GSO_TYPE_TCPV4,
};
use cantle_abi::{DomId, GrantRef, PAGE_SIZE};
use cantle_grant::test_utils::GuestPages;
use cantle_grant::{Access, CopyPiece, GrantMapper, GrantStatus, InProcessMapper, Mapping};
use cantle_netback::Backend;
use cantle_netback::test_utils::{FrontOptions, NetFront, Outgoing, Shape, World, settle};
use cantle_netport::headers::IpVersion;
use cantle_netport::test_utils::{Recorded, Recorder, RecorderHandle};
use cantle_netport::{Frame, NetPort, Offload, Offloads, PartMut, Received};
use cantle_xenstore::xenbus::XenbusState;

fn connect(options: &FrontOptions) -> (World, Backend, NetFront, RecorderHandle) {
    let world = World::new();
    let (port, wire) = Recorder::new().expect("a descriptor");
    let mut backend = world
        .backend(Box::new(port))
        .expect("the directories are there");
    let front = world.front(options);
    assert!(settle(&mut backend));
    assert_eq!(front.backend_state(), XenbusState::CONNECTED);
    (world, backend, front, wire)
}

fn plain(bytes: Vec<u8>) -> Recorded {
    Recorded {
        bytes,
        offload: Offload::default(),
    }
}

fn statuses(front: &mut NetFront) -> Vec<i16> {
    let responses = front.responses();
    responses.iter().map(|response| response.status).collect()
}

fn write(page: &GuestPages, offset: usize, bytes: &[u8]) {
    let into = PartMut::shared(page, offset, bytes.len());
    into.expect("within the page").copy_from(bytes);
}

/// A sound packet passes: the interface lives.
fn assert_alive(backend: &mut Backend, front: &mut NetFront, wire: &RecorderHandle) {
    let bytes = vec![0x77; 200];
    assert!(front.send(&Outgoing {
        bytes: &bytes,
        ..Outgoing::default()
    }));
    front.kick();
    settle(backend);
    assert_eq!(wire.take_sent(), [plain(bytes)]);
    assert_eq!(statuses(front), [NETIF_RSP_OKAY]);
    wire.inject(plain(vec![0x78; 300]));
    front.post(1);
    settle(backend);
    assert_eq!(front.receive().len(), 1);
}

/// A guest that changes things as soon as they have been looked at: the ring when a page is asked for, the packet's first page
/// when the packet is handed to the port.
#[derive(Default)]
struct Scribbler {
    ring: Mutex<Option<GuestPages>>,
    packet: Mutex<Option<GuestPages>>,
}

impl Scribbler {
    fn scribble(page: &Mutex<Option<GuestPages>>) {
        if let Some(page) = &*page.lock().expect("nobody panicked") {
            // Not the ring's indices: their checks are another test's.
            write(page, 64, &[0xff; PAGE_SIZE - 64]);
        }
    }
}

struct ScribbledMapper(InProcessMapper, Arc<Scribbler>);

impl GrantMapper for ScribbledMapper {
    fn map(&self, granter: DomId, gref: GrantRef, access: Access) -> Result<Mapping, GrantStatus> {
        Scribbler::scribble(&self.1.ring);
        self.0.map(granter, gref, access)
    }

    fn copy(&self, pieces: &mut [CopyPiece<'_>]) {
        Scribbler::scribble(&self.1.ring);
        self.0.copy(pieces);
    }
}

struct ScribbledPort(Recorder, Arc<Scribbler>);

impl NetPort for ScribbledPort {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        Scribbler::scribble(&self.1.packet);
        self.0.send(batch);
    }
    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        self.0.receive(into)
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.fd()
    }
    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.0.accept(offloads)
    }
}

/// Requests and headers are read once: what is changed afterwards has no effect on lengths, places or metadata.
#[test]
fn xsa_155_double_fetch() {
    let world = World::new();
    let (port, wire) = Recorder::new().expect("a descriptor");
    let scribbler = Arc::new(Scribbler::default());
    let mapper = ScribbledMapper(world.mapper(), scribbler.clone());
    let port = ScribbledPort(port, scribbler.clone());
    let mut backend = world
        .backend_on(Arc::new(mapper), Box::new(port))
        .expect("the directories are there");
    let mut front = world.front(&FrontOptions::default());
    settle(&mut backend);
    for (payload, mapped) in [(1000, false), (30_000, true)] {
        let shape = Shape::tcp(IpVersion::V4, vec![0x11; payload]);
        let bytes = shape.build(true);
        let packet = Outgoing {
            bytes: &bytes,
            csum_blank: true,
            gso: Some((XEN_NETIF_GSO_TYPE_TCPV4, 900)),
            // So that all of the headers are where the scribbler writes.
            split: &[2000],
            offset: 100,
            ..Outgoing::default()
        };
        assert!(front.send(&packet));
        *scribbler.ring.lock().unwrap() = Some(front.tx_ring_page().clone());
        // The first buffer is the first that is used, both times.
        *scribbler.packet.lock().unwrap() = Some(front.tx_buffer(0).0.clone());
        front.kick();
        settle(&mut backend);
        *scribbler.ring.lock().unwrap() = None;
        *scribbler.packet.lock().unwrap() = None;
        let sent = wire.take_sent();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].bytes.len(), bytes.len());
        // All headers are as they were when they were checked; a payload that stays in its page is what the guest makes of it.
        let headers = shape.start() + 20;
        assert_eq!(sent[0].bytes[..headers], bytes[..headers]);
        assert_eq!(
            sent[0].bytes[1000] == 0xff,
            mapped,
            "the scribbler was there"
        );
        let gso = sent[0].offload.gso.expect("still to be cut up");
        assert_eq!((gso.size, usize::from(gso.header_len)), (900, headers));
        let answers = statuses(&mut front);
        assert!(
            answers
                .iter()
                .all(|status| matches!(*status, NETIF_RSP_OKAY | NETIF_RSP_NULL))
        );
    }
}

/// A later page that can be had does not make good an earlier one that cannot.
#[test]
fn xsa_365_grant_error_overwritten() {
    let (_world, mut backend, mut front, wire) = connect(&FrontOptions::default());
    for sizes in [[100, 100, 100], [4096, 4096, 4096]] {
        for bad in 0..sizes.len() {
            for (n, &size) in (0_u16..).zip(&sizes) {
                let (_, gref) = front.tx_buffer(n);
                let gref = if usize::from(n) == bad {
                    GrantRef(30_000)
                } else {
                    gref
                };
                let flags = if usize::from(n) + 1 < sizes.len() {
                    NETTXF_more_data
                } else {
                    0
                };
                let size = if n == 0 { sizes.iter().sum() } else { size };
                assert!(front.push_slot(&NetifTxRequest {
                    gref,
                    offset: 0,
                    flags,
                    id: n,
                    size
                }));
            }
            front.kick();
            settle(&mut backend);
            assert_eq!(
                statuses(&mut front),
                [NETIF_RSP_ERROR; 3],
                "page {bad} of {sizes:?}"
            );
            assert!(wire.take_sent().is_empty());
        }
    }
    assert_alive(&mut backend, &mut front, &wire);
}

/// A packet that cannot be understood is refused, and the queue goes on.
#[test]
fn xsa_374_malformed_packet_keeps_queue_alive() {
    let (_world, mut backend, mut front, wire) = connect(&FrontOptions::default());
    let (_, gref) = front.tx_buffer(0);
    let slot = |flags, offset, size| NetifTxRequest {
        gref,
        offset,
        flags,
        id: 9,
        size,
    };
    let extra = |kind, flags| {
        let u = [0; 6];
        NetifExtraInfo { kind, flags, u }.to_tx_slot()
    };
    let no_size = NetifExtraInfo::gso(0, XEN_NETIF_GSO_TYPE_TCPV4, 0).to_tx_slot();
    let cases: Vec<Vec<NetifTxRequest>> = vec![
        vec![slot(0, 0, 0)],
        vec![slot(0, 0, 13)],
        vec![slot(0, 4095, 14)],
        vec![slot(0, u16::MAX, u16::MAX)],
        vec![slot(NETTXF_more_data, 0, 100), slot(0, 0, 101)],
        vec![slot(NETTXF_more_data, 0, u16::MAX), slot(0, 0, 1)],
        vec![slot(NETTXF_extra_info, 0, 100), extra(0, 0)],
        vec![
            slot(NETTXF_extra_info, 0, 100),
            extra(2, 1),
            extra(3, 1),
            extra(99, 0),
        ],
        vec![slot(NETTXF_extra_info, 0, 100), no_size],
        vec![NetifTxRequest {
            gref: GrantRef(u32::MAX),
            ..slot(0, 0, 100)
        }],
        std::iter::repeat_n(slot(NETTXF_more_data, 0, 100), 40)
            .chain([slot(0, 0, 100)])
            .collect(),
    ];
    for case in cases {
        for slot in &case {
            assert!(front.push_slot(slot));
        }
        front.kick();
        settle(&mut backend);
        let answers = statuses(&mut front);
        assert_eq!(answers.len(), case.len(), "each slot is answered: {case:?}");
        assert!(
            answers
                .iter()
                .all(|status| matches!(*status, NETIF_RSP_ERROR | NETIF_RSP_NULL))
        );
        assert!(wire.take_sent().is_empty());
        assert_alive(&mut backend, &mut front, &wire);
    }
}

/// A guest that posts no pages makes nothing pile up here: what waits, waits in the port, and costs no time.
#[test]
fn xsa_392_rx_backlog() {
    let options = FrontOptions {
        rx_buffers: 0,
        ..FrontOptions::default()
    };
    let (_world, mut backend, mut front, wire) = connect(&options);
    for _ in 0..5000 {
        wire.inject(plain(vec![1; 60_000]));
    }
    assert!(settle(&mut backend));
    assert_eq!(wire.waiting(), 5000);

    // A page that is not enough for the next packet: that one is held, and no other.
    front.post(1);
    settle(&mut backend);
    assert_eq!(wire.waiting(), 4999);
    assert!(front.receive().is_empty());
    let asked = wire.asked();
    for _ in 0..100 {
        wire.inject(plain(vec![2; 60]));
        front.notify_rx();
        settle(&mut backend);
    }
    assert_eq!(
        wire.asked(),
        asked,
        "nothing is read that could not be given"
    );

    // When pages come, everything arrives, in order.
    let mut got = 0;
    while got < 5100 {
        front.post(256);
        settle(&mut backend);
        let packets = front.receive();
        assert!(!packets.is_empty(), "after {got}");
        for packet in packets {
            let expected = if got < 5000 {
                vec![1; 60_000]
            } else {
                vec![2; 60]
            };
            assert!(packet.bytes == expected, "packet {got}");
            got += 1;
        }
    }
}

/// Letting go of a packet that is held back, or of one that cannot be given, does not stop anything.
#[test]
fn xsa_424_dropping_a_held_packet_does_not_deadlock() {
    let options = FrontOptions {
        rx_buffers: 1,
        ..FrontOptions::default()
    };
    let (_world, mut backend, front, wire) = connect(&options);
    wire.inject(plain(vec![1; 60_000]));
    settle(&mut backend);
    assert_eq!(wire.waiting(), 0, "it is held");
    front.set_state(XenbusState::CLOSING);
    settle(&mut backend);
    front.set_state(XenbusState::CLOSED);
    settle(&mut backend);
    assert_eq!(backend.state(), XenbusState::CLOSED);

    let options = FrontOptions {
        sg: false,
        rx_buffers: 1,
        ..FrontOptions::default()
    };
    let (_world, mut backend, mut front, wire) = connect(&options);
    for _ in 0..2000 {
        wire.inject(plain(vec![1; 5000]));
    }
    wire.inject(plain(vec![2; 100]));
    settle(&mut backend);
    assert_eq!(backend.stats().rx.counts().dropped, 2000);
    assert_eq!(front.receive().len(), 1);
}

/// Looks at frames' first parts.
struct Spy {
    inner: Recorder,
    first_parts: Arc<Mutex<Vec<usize>>>,
}

impl NetPort for Spy {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        let first = batch.iter().map(|frame| frame.parts[0].len());
        self.first_parts
            .lock()
            .expect("nobody panicked")
            .extend(first);
        self.inner.send(batch);
    }
    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        self.inner.receive(into)
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }
    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.inner.accept(offloads)
    }
}

/// However a guest spreads headers over slots, the port gets them in one piece.
#[test]
fn xsa_423_split_headers() {
    let world = World::new();
    let (port, wire) = Recorder::new().expect("a descriptor");
    let first_parts = Arc::new(Mutex::new(Vec::new()));
    let spy = Spy {
        inner: port,
        first_parts: first_parts.clone(),
    };
    let mut backend = world.backend(Box::new(spy)).unwrap();
    let mut front = world.front(&FrontOptions::default());
    settle(&mut backend);
    for payload in [10, 2000, 40_000] {
        let mut shape = Shape::tcp(IpVersion::V6, vec![4; payload]);
        shape.options = 3;
        shape.tcp_options = 10;
        let bytes = shape.build(true);
        let headers = shape.start() + 60;
        for split in [
            vec![1; 7],
            vec![0, 13, 1, 0, 40, 1],
            vec![headers - 1],
            vec![14, 40],
        ] {
            assert!(front.send(&Outgoing {
                bytes: &bytes,
                csum_blank: true,
                split: &split,
                ..Outgoing::default()
            }));
            front.kick();
            settle(&mut backend);
            assert_eq!(wire.take_sent()[0].bytes, bytes);
            let first = std::mem::take(&mut *first_parts.lock().unwrap());
            assert!(
                first.iter().all(|first| *first >= headers),
                "{first:?} of {headers}"
            );
            assert!(
                statuses(&mut front)
                    .iter()
                    .all(|status| *status == NETIF_RSP_OKAY)
            );
        }
    }
}

/// As many slots as there may be, for hardly any bytes.
#[test]
fn xsa_432_tiny_packet_many_slots() {
    let (_world, mut backend, mut front, wire) = connect(&FrontOptions::default());
    for len in [14, 17, 18, 60] {
        let bytes: Vec<u8> = (0..len).collect();
        for split in [vec![1; 17], [vec![0; 10], vec![1; 7]].concat()] {
            let split = &split[..17.min(usize::from(len))];
            assert!(front.send(&Outgoing {
                bytes: &bytes,
                split,
                ..Outgoing::default()
            }));
            front.kick();
            settle(&mut backend);
            assert_eq!(wire.take_sent(), [plain(bytes.clone())]);
            assert!(
                statuses(&mut front)
                    .iter()
                    .all(|status| *status == NETIF_RSP_OKAY)
            );
        }
    }
}

/// Slots of no bytes: a packet of nothing else is refused, and no page of theirs is asked for.
#[test]
fn xsa_448_zero_length_fragments() {
    let (_world, mut backend, mut front, wire) = connect(&FrontOptions::default());
    let nowhere = GrantRef(u32::MAX);
    let slot = |gref, id, more, size| NetifTxRequest {
        gref,
        offset: 0,
        flags: if more { NETTXF_more_data } else { 0 },
        id,
        size,
    };
    for n in 0..18 {
        assert!(front.push_slot(&slot(nowhere, n, n < 17, 0)));
    }
    front.kick();
    settle(&mut backend);
    assert_eq!(statuses(&mut front), [NETIF_RSP_ERROR; 18]);
    assert!(wire.take_sent().is_empty());

    // A first slot to which nothing is left, and others between those with data.
    let (page, gref) = front.tx_buffer(5);
    write(page, 0, &[6; 60]);
    for (n, (gref, size)) in [(nowhere, 60), (nowhere, 0), (gref, 60), (nowhere, 0)]
        .into_iter()
        .enumerate()
    {
        assert!(front.push_slot(&slot(gref, 5, n < 3, size)));
    }
    front.kick();
    settle(&mut backend);
    assert_eq!(statuses(&mut front), [NETIF_RSP_OKAY; 4]);
    assert_eq!(wire.take_sent(), [plain(vec![6; 60])]);
    assert_alive(&mut backend, &mut front, &wire);
}

/// A ring whose indices cannot be is given up, and the interface closes in good order; the guest may connect anew.
#[test]
fn an_index_that_jumps_ends_the_connection_and_no_more() {
    for tx in [true, false] {
        let (_world, mut backend, front, wire) = connect(&FrontOptions::default());
        let page = if tx {
            front.tx_ring_page()
        } else {
            front.rx_ring_page()
        };
        write(page, 0, &u32::MAX.to_le_bytes());
        wire.inject(plain(vec![0; 60]));
        front.notify_tx();
        front.notify_rx();
        settle(&mut backend);
        assert_eq!(front.backend_state(), XenbusState::CLOSING);
        assert!(!wire.link());
        front.set_state(XenbusState::CLOSED);
        settle(&mut backend);
        write(page, 0, &0_u32.to_le_bytes());
        front.set_state(XenbusState::INITIALISING);
        settle(&mut backend);
        assert_eq!(front.backend_state(), XenbusState::INIT_WAIT);
    }
}

/// A guest that signals without end gets no more than its turn: the back end still hears that it is to stop.
#[test]
fn xsa_391_event_storm() {
    let (_world, backend, mut front, wire) = connect(&FrontOptions::default());
    let running = World::serve(backend);
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        front.notify_tx();
        front.notify_rx();
    }
    let mut backend = running.stop();
    assert_alive(&mut backend, &mut front, &wire);
}

/// Numbers in a fixed but unordered sequence.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.roll().to_le_bytes()[3])
    }
}

/// One thread writes anything anywhere into rings and packets, another sends, the wire delivers: nothing panics or hangs, and the
/// back end can be stopped.
#[test]
fn a_guest_that_scribbles_everywhere_harms_only_itself() {
    for seed in 1..=8 {
        let (_world, backend, mut front, wire) = connect(&FrontOptions::default());
        let running = World::serve(backend);
        let stop = AtomicBool::new(false);
        let pages: Vec<GuestPages> = [front.tx_ring_page(), front.rx_ring_page()]
            .into_iter()
            .chain((0..4).map(|id| front.tx_buffer(id).0))
            .cloned()
            .collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
                while !stop.load(Ordering::Relaxed) {
                    let page = &pages[usize::from(dice.bytes::<1>()[0]) % pages.len()];
                    // Seldom the indices, which end the connection.
                    let low = if dice.roll().is_multiple_of(5000) {
                        0
                    } else {
                        64
                    };
                    let place = low + usize::from(u16::from_le_bytes(dice.bytes())) % (4092 - low);
                    write(page, place, &dice.bytes::<4>());
                }
            });
            let mut dice = Dice(seed + 77);
            let until = Instant::now() + Duration::from_millis(150);
            while Instant::now() < until {
                let [a, b, c, d, e, f, ..] = dice.bytes::<8>();
                let (_, gref) = front.tx_buffer(u16::from(a));
                front.push_slot(&NetifTxRequest {
                    gref: if b < 200 {
                        gref
                    } else {
                        GrantRef(u32::from(b))
                    },
                    offset: u16::from(c) * 8,
                    flags: u16::from(d % 16),
                    id: u16::from(a),
                    size: u16::from(e) * 16,
                });
                if f < 64 {
                    front.kick();
                    front.notify_tx();
                    wire.inject(plain(vec![f; usize::from(e) * 40 + 1]));
                }
                // Its own view of the ring is gone to pieces; the front end does not look at it any more.
                if f < 32 {
                    front.notify_rx();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let backend = running.stop();
        let state = backend.state();
        assert!(
            matches!(state, XenbusState::CONNECTED | XenbusState::CLOSING),
            "{state:?}"
        );
    }
}
