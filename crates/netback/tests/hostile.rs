//! What a front end with several queues and a control ring must not be able to do: to itself, and to its neighbours.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cantle_abi::io::netif::{
    NETIF_RSP_ERROR, NETIF_RSP_NULL, NETIF_RSP_OKAY, NETTXF_extra_info, NETTXF_more_data,
    NetifExtraInfo, NetifTxRequest, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XenNetifCtrlRequest,
};
use cantle_abi::{GrantRef, PAGE_SIZE};
use cantle_grant::test_utils::GuestPages;
use cantle_netback::BackendOptions;
use cantle_netback::test_utils::{
    FrontOptions, NetFront, PATIENCE, StopAtEnd, TestDevice, Vif, World, assert_nothing_mapped,
    eventually, outgoing, plain, settle, until,
};
use cantle_netport::{Part, PartMut};
use cantle_xenstore::xenbus::XenbusState;

/// Numbers in a fixed but unordered sequence.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.roll() >> 11) % end
    }

    fn byte(&mut self) -> u8 {
        self.roll().to_le_bytes()[3]
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Small, at an edge, or anything.
    fn word(&mut self) -> u32 {
        let any = u32::from(self.half()) << 16 | u32::from(self.half());
        match self.below(4) {
            0 => any % 8,
            1 => any % 600,
            2 => u32::MAX - any % 3,
            _ => any,
        }
    }
}

fn two_queues() -> FrontOptions {
    FrontOptions {
        queues: 2,
        control: true,
        multicast: true,
        ..FrontOptions::default()
    }
}

fn write(page: &GuestPages, offset: usize, bytes: &[u8]) {
    let into = PartMut::shared(page, offset, bytes.len());
    into.unwrap().copy_from(bytes);
}

fn read(page: &GuestPages) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_SIZE];
    Part::shared(page, 0, PAGE_SIZE)
        .unwrap()
        .copy_to(&mut bytes);
    bytes
}

/// Both directions of each queue work.
#[track_caller]
fn assert_alive(vif: &mut Vif) {
    assert_eq!(vif.backend.state(), XenbusState::CONNECTED);
    let queues = vif.front.queues().len();
    for n in 0..queues {
        let _ = vif.device.take_sent();
        let queue = &mut vif.front.queues()[n];
        assert!(queue.send(&outgoing(&[0x77; 200])));
        queue.kick();
        let device = &vif.device;
        until(&mut vif.backend, |_| {
            device.take_sent().concat() == [plain(vec![0x77; 200])]
        });
        eventually(|| queue.responses().len() == 1);
    }
    let before: usize = take(&mut vif.front);
    assert_eq!(before, 0);
    assert!(vif.device.inject(0, plain(vec![0x78; 300])));
    until(&mut vif.backend, |_| take(&mut vif.front) == 1);
}

/// Takes what has come on all queues; how many packets.
fn take(front: &mut NetFront) -> usize {
    let queues = front.queues().iter_mut();
    let taken = queues.map(|queue| {
        let taken = queue.receive().len();
        queue.post(256);
        taken
    });
    taken.sum()
}

/// A ring whose index cannot be ends its interface, whichever ring it is, also while others deliver to it; a neighbour on the same
/// switch loses nothing.
#[test]
fn an_index_that_jumps_on_any_ring_ends_one_interface_and_no_more() {
    for ring in 0..5 {
        let victim = Vif::connect(
            TestDevice::pushed(4),
            BackendOptions::default(),
            &two_queues(),
        );
        let neighbour = Vif::connect(
            TestDevice::pushed(4),
            BackendOptions::default(),
            &two_queues(),
        );
        let (mut front, mut other) = (victim.front, neighbour.front);
        let running = [victim.backend, neighbour.backend].map(World::serve);
        let stop = AtomicBool::new(false);
        let delivered = std::thread::scope(|scope| {
            let switch = scope.spawn(|| {
                let mut taken = 0;
                while !stop.load(Ordering::Relaxed) {
                    for device in [&victim.device, &neighbour.device] {
                        let kept = device.deliver(&[plain(vec![4; 60]), plain(vec![2; 1000])]);
                        if std::ptr::eq(device, &neighbour.device) {
                            taken += kept.iter().filter(|kept| **kept).count();
                        }
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
                taken
            });
            let end = StopAtEnd(&stop);
            std::thread::sleep(Duration::from_millis(20));
            let page = match ring {
                0 | 1 => front.queues()[ring].tx_ring_page().clone(),
                2 | 3 => front.queues()[ring - 2].rx_ring_page().clone(),
                _ => front.control().ring_page().clone(),
            };
            write(&page, 0, &0x8000_0000_u32.to_le_bytes());
            // Nobody else's thread is woken.
            match ring {
                4 => front.control().notify(),
                _ => {
                    let queue = &front.queues()[ring % 2];
                    queue.notify_tx();
                    queue.notify_rx();
                }
            }
            assert!(
                front.wait_state(XenbusState::CLOSING, PATIENCE),
                "ring {ring}"
            );
            eventually(|| !victim.device.open()[0].link());
            assert_eq!(
                victim.device.open().len(),
                1,
                "the workers' ports are closed"
            );
            assert_nothing_mapped(&victim.world);
            let taken = victim.device.deliver(&[plain(vec![4; 60])]);
            assert_eq!(taken, [false], "nobody is there");
            take(&mut other);
            std::thread::sleep(Duration::from_millis(20));
            drop(end);
            switch.join().unwrap()
        });
        assert_eq!(other.backend_state(), XenbusState::CONNECTED);
        let counts = running[1].stats().rx.counts();
        assert!(delivered > 10);
        let waits = u64::try_from(delivered).unwrap() - counts.packets;
        assert!(waits < 1500, "all but what waits for pages has come");
    }
}

/// Whatever is asked over the control ring is answered, and the queues go on.
#[test]
fn any_control_request_is_answered() {
    let mut vif = Vif::connect(
        TestDevice::pushed(4),
        BackendOptions::default(),
        &two_queues(),
    );
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let given = vif.front.control().given().1;
    let grefs: Vec<GrantRef> = (0..8)
        .map(|n| {
            vif.front.queues()[n % 2]
                .rx_buffer(u16::try_from(n).unwrap())
                .1
        })
        .collect();
    for round in 0..400 {
        let control = vif.front.control();
        let (page, _) = control.given();
        for at in (0..64).step_by(4) {
            let gref = grefs[usize::try_from(dice.below(8)).unwrap()].0;
            let word = if dice.below(2) == 0 {
                gref
            } else {
                dice.word()
            };
            write(page, at, &word.to_le_bytes());
        }
        let asked = 1 + dice.below(32);
        for _ in 0..asked {
            let mut data = [dice.word(), dice.word(), dice.word()];
            let kind = u16::try_from(dice.below(13)).unwrap();
            // Mostly a page that there is.
            let place = usize::from(matches!(kind, 9 | 10));
            if dice.below(8) != 0 {
                data[place] = given.0;
            }
            let id = dice.half();
            assert!(control.push(&XenNetifCtrlRequest { id, kind, data }));
        }
        control.kick();
        settle(&mut vif.backend);
        let answers = vif.front.control().answers();
        assert_eq!(answers.len(), usize::try_from(asked).unwrap());
        assert!(answers.iter().all(|answer| answer.status <= 3));
        if round % 40 == 0 {
            assert!(vif.device.inject(0, plain(vec![4; 100])));
            until(&mut vif.backend, |_| take(&mut vif.front) == 1);
        }
    }
    // Whatever has been mapped is let go with the connection.
    vif.front.set_state(XenbusState::CLOSED);
    settle(&mut vif.backend);
    assert_nothing_mapped(&vif.world);
}

/// Extra info of every kind, any number of it, in any order, before, between and after slots with data.
#[test]
fn any_extra_info_is_answered() {
    let mut vif = Vif::connect(
        TestDevice::pulled(4),
        BackendOptions::default(),
        &two_queues(),
    );
    let mut dice = Dice(0x9876_5432_1234_5679);
    for _ in 0..300 {
        let mut pushed = 0;
        let queue = &mut vif.front.queues()[0];
        for _ in 0..=dice.below(5) {
            let id = u16::try_from(dice.below(256)).unwrap();
            let (_, gref) = queue.tx_buffer(id);
            let size = 14 + dice.half() % 600;
            let mut slots = vec![NetifTxRequest {
                gref,
                offset: dice.half() % 4096,
                flags: (dice.half() % 16) | NETTXF_extra_info,
                id,
                size,
            }];
            for _ in 0..dice.below(7) {
                let more = u8::from(dice.below(5) != 0);
                let extra = NetifExtraInfo {
                    kind: u8::try_from(dice.below(8)).unwrap(),
                    flags: more | (dice.byte() & dice.byte() & dice.byte() & 0xfe),
                    u: std::array::from_fn(|_| dice.byte() % 8),
                };
                slots.push(extra.to_tx_slot());
            }
            for slot in slots {
                pushed += usize::from(queue.push_slot(&slot));
            }
        }
        queue.kick();
        settle(&mut vif.backend);
        // Two slots in a row that are nothing but ends finish whatever goes on.
        let end = NetifTxRequest {
            gref: GrantRef(0),
            offset: 0,
            flags: 0,
            id: 0,
            size: 0,
        };
        let queue = &mut vif.front.queues()[0];
        pushed += usize::from(queue.push_slot(&end)) + usize::from(queue.push_slot(&end));
        queue.kick();
        settle(&mut vif.backend);
        let responses = vif.front.queues()[0].responses();
        assert_eq!(responses.len(), pushed);
        let known = |status| matches!(status, NETIF_RSP_OKAY | NETIF_RSP_ERROR | NETIF_RSP_NULL);
        assert!(responses.iter().all(|response| known(response.status)));
    }
    assert_alive(&mut vif);
}

/// Each kind of extra info is judged by itself: two of one kind, both multicast requests at once and types that there are not are refused,
/// hashes mean nothing.
#[test]
fn extra_info_is_taken_or_refused_as_a_whole() {
    let mut vif = Vif::connect(
        TestDevice::pulled(4),
        BackendOptions::default(),
        &two_queues(),
    );
    let more = 1;
    let group = [1, 0, 0x5e, 0, 0, 7];
    let add = |flags| NetifExtraInfo::mcast(XEN_NETIF_EXTRA_TYPE_MCAST_ADD, group, flags);
    let leave = |flags| NetifExtraInfo::mcast(XEN_NETIF_EXTRA_TYPE_MCAST_DEL, group, flags);
    let unicast = NetifExtraInfo::mcast(XEN_NETIF_EXTRA_TYPE_MCAST_ADD, [2; 6], 0);
    let hash = |flags| NetifExtraInfo::hash(0, 1, 77, flags);
    let sent = true;
    for (extras, status, goes_out) in [
        (vec![hash(0)], NETIF_RSP_OKAY, sent),
        (vec![add(0)], NETIF_RSP_OKAY, !sent),
        (vec![hash(more), add(0)], NETIF_RSP_OKAY, !sent),
        (vec![leave(more), hash(0)], NETIF_RSP_OKAY, !sent),
        (vec![unicast], NETIF_RSP_ERROR, !sent),
        (vec![add(more), leave(0)], NETIF_RSP_ERROR, !sent),
        (vec![hash(more), hash(0)], NETIF_RSP_ERROR, !sent),
        (vec![NetifExtraInfo::xdp(256, 0)], NETIF_RSP_ERROR, !sent),
    ] {
        let queue = &mut vif.front.queues()[1];
        assert!(queue.send_with(&outgoing(&[5; 60]), &extras));
        queue.kick();
        let mut statuses = Vec::new();
        until(&mut vif.backend, |_| {
            let responses = vif.front.queues()[1].responses();
            statuses.extend(responses.iter().map(|response| response.status));
            statuses.len() == 1 + extras.len()
        });
        assert_eq!(statuses[0], status, "{extras:?}");
        assert!(statuses[1..].iter().all(|status| *status == NETIF_RSP_NULL));
        assert_eq!(!vif.device.take_sent().concat().is_empty(), goes_out);
    }
}

/// Slots, pages and rings of both queues and of the control ring are written over while two threads deliver: no panic, no hang, and an
/// end in good order.
#[test]
fn a_guest_that_scribbles_on_every_ring_harms_only_itself() {
    for seed in 1..=6_u64 {
        let vif = Vif::connect(
            TestDevice::pushed(4),
            BackendOptions::default(),
            &two_queues(),
        );
        let mut front = vif.front;
        let running = World::serve(vif.backend);
        let stop = AtomicBool::new(false);
        let mut pages = vec![
            front.control().ring_page().clone(),
            front.control().given().0.clone(),
        ];
        for queue in front.queues() {
            pages.extend([queue.tx_ring_page().clone(), queue.rx_ring_page().clone()]);
            pages.extend((0..3).map(|id| queue.tx_buffer(id).0.clone()));
        }
        let device = &vif.device;
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let stop = &stop;
                scope.spawn(move || {
                    let mut dice = Dice(seed * 7 + thread);
                    while !stop.load(Ordering::Relaxed) {
                        let frames =
                            [60, 1500, 9000].map(|len| plain(vec![dice.byte() & 0xfe; len]));
                        let _ = device.deliver(&frames);
                        std::thread::sleep(Duration::from_micros(100));
                    }
                });
            }
            let _end = StopAtEnd(&stop);
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let until = Instant::now() + Duration::from_millis(120);
            while Instant::now() < until {
                let page = &pages[usize::try_from(dice.below(pages.len() as u64)).unwrap()];
                // Seldom the indices, which end the connection.
                let low = if dice.below(4000) == 0 { 0 } else { 64 };
                let place = low + usize::from(dice.half()) % (4092 - low);
                write(page, place, &dice.word().to_le_bytes());
                if dice.below(16) == 0 {
                    for queue in front.queues() {
                        queue.push_slot(&NetifTxRequest {
                            gref: GrantRef(dice.word()),
                            offset: dice.half(),
                            flags: dice.half() % 16,
                            id: dice.half(),
                            size: dice.half(),
                        });
                        queue.kick();
                        queue.notify_rx();
                    }
                    let (kind, data) = (dice.half() % 12, [dice.word(), dice.word(), dice.word()]);
                    front.control().ask(kind, data);
                }
            }
        });
        let mut backend = running.stop();
        settle(&mut backend);
        let state = backend.state();
        assert!(
            matches!(state, XenbusState::CONNECTED | XenbusState::CLOSING),
            "{state:?}"
        );
        front.set_state(XenbusState::CLOSED);
        settle(&mut backend);
        assert_nothing_mapped(&vif.world);
    }
}

/// What a response or a frame leaves of its slot or page is what was there: nothing of the host's memory.
#[test]
fn xsa_216_nothing_but_what_is_said_is_written() {
    for device in [TestDevice::pulled(1), TestDevice::pushed(1)] {
        let front = FrontOptions {
            control: true,
            headroom: 100,
            ..FrontOptions::default()
        };
        let mut vif = Vif::connect(device, BackendOptions::default(), &front);
        for id in 0..256 {
            write(vif.front.rx_buffer(id).0, 0, &[0x5a; PAGE_SIZE]);
        }
        // Slots begin after 64 bytes; what a request said stays where no response is.
        write(vif.front.tx_ring_page(), 64 + 12 + 4, &[0xa5; 8]);
        assert!(vif.front.send(&outgoing(&[1; 60])));
        vif.front.kick();
        let asked = vif
            .front
            .control()
            .ask(4, [0x1111_1111, 0x2222_2222, 0x3333_3333]);
        assert!(asked);
        for len in [60, 5000] {
            assert!(vif.device.inject(0, plain(vec![1; len])));
        }
        settle(&mut vif.backend);
        let tx = read(vif.front.tx_ring_page());
        let (offset, flags, size) = (
            &tx[64 + 4..64 + 6],
            &tx[64 + 6..64 + 8],
            &tx[64 + 10..64 + 12],
        );
        assert_eq!(
            (offset, flags, size),
            (&[0, 0][..], &[0, 0][..], &[60, 0][..])
        );
        assert_eq!(tx[64 + 16..64 + 24], [0xa5; 8]);
        let control = read(vif.front.control().ring_page());
        assert_eq!(control[64 + 12..64 + 16], [0x33; 4], "beyond the response");
        for (id, len) in [(0, 60), (1, 3996), (2, 1004)] {
            let page = read(vif.front.rx_buffer(id).0);
            assert!(page[..100].iter().all(|byte| *byte == 0x5a));
            assert!(page[100..100 + len].iter().all(|byte| *byte == 1));
            assert!(page[100 + len..].iter().all(|byte| *byte == 0x5a));
        }
    }
}

/// A guest that signals without end, on every channel, gets no more than its turn: the back end still hears that it is to stop.
#[test]
fn xsa_332_event_storm_on_every_channel() {
    let vif = Vif::connect(
        TestDevice::pulled(4),
        BackendOptions::default(),
        &two_queues(),
    );
    let mut front = vif.front;
    let running = World::serve(vif.backend);
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        for queue in front.queues() {
            queue.notify_tx();
            queue.notify_rx();
        }
        front.control().notify();
    }
    let backend = running.stop();
    let mut vif = Vif {
        world: vif.world,
        device: vif.device,
        backend,
        front,
    };
    assert_alive(&mut vif);
}

/// A guest that writes its state and keys without end makes work, one piece at a time, and nothing pile up.
#[test]
fn xsa_349_state_flood() {
    let mut vif = Vif::connect(
        TestDevice::pulled(1),
        BackendOptions::default(),
        &FrontOptions::default(),
    );
    for n in 0..5000 {
        vif.front.write_key("state", "4");
        vif.front.write_key("feature-sg", &(n % 2).to_string());
    }
    let mut calls = 0;
    while !matches!(
        vif.backend.process().unwrap(),
        cantle_netback::Progress::Idle
    ) {
        calls += 1;
    }
    assert!(calls < 1000, "{calls} calls for what is one change at most");
    assert_alive(&mut vif);
}

/// A packet without end, one slot at a time, keeps nothing but its own answers.
#[test]
fn xsa_432_a_packet_without_end_is_answered_as_it_comes() {
    let mut vif = Vif::connect(
        TestDevice::pulled(1),
        BackendOptions::default(),
        &FrontOptions::default(),
    );
    let slot = NetifTxRequest {
        gref: vif.front.tx_buffer(0).1,
        offset: 0,
        flags: NETTXF_more_data,
        id: 0,
        size: 1,
    };
    let mut answered = 0;
    for n in 0..1000 {
        assert!(vif.front.push_slot(&slot));
        vif.front.kick();
        settle(&mut vif.backend);
        answered += vif.front.responses().len();
        assert!(answered + 18 > n, "{answered} of {n}");
    }
}

/// The thread that finds a ring broken wakes the one that ends the interface: nothing else does.
#[test]
fn a_broken_ring_of_a_quiet_interface_is_seen_to() {
    let vif = Vif::connect(
        TestDevice::pulled(4),
        BackendOptions::default(),
        &two_queues(),
    );
    let mut front = vif.front;
    let _running = World::serve(vif.backend);
    let queue = &front.queues()[1];
    write(queue.tx_ring_page(), 0, &0x8000_0000_u32.to_le_bytes());
    queue.notify_tx();
    assert!(front.wait_state(XenbusState::CLOSING, PATIENCE));
}
