//! Interfaces that come and go while others use them: no panic, and nothing is left behind: no page, no thread, no descriptor.
//!
//! One test at a time: threads and descriptors are the process's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cantle_abi::DomId;
use cantle_abi::io::netif::{
    NetifExtraInfo, XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
};
use cantle_netback::BackendOptions;
use cantle_netback::test_utils::{
    FrontOptions, NetFront, PATIENCE, StopAtEnd, TestDevice, Vif, World, assert_nothing_mapped,
    eventually, outgoing, plain, settle,
};
use cantle_xenstore::xenbus::{Removal, Removed, XenbusState};

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads that serve queues, and descriptors of this process. The other tests wait and have none.
fn used() -> (usize, usize) {
    let of_ours = |task: &std::io::Result<std::fs::DirEntry>| {
        let name = task.as_ref().unwrap().path().join("comm");
        std::fs::read_to_string(name).is_ok_and(|name| name.trim() == "netback")
    };
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    (threads.filter(of_ours).count(), descriptors.count())
}

fn several(queues: u32) -> FrontOptions {
    FrontOptions {
        queues,
        control: true,
        multicast: true,
        ..FrontOptions::default()
    }
}

/// What goes on at the same time as an interface comes and goes.
struct Others {
    stop: AtomicBool,
    taken: AtomicU64,
}

impl Others {
    fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            taken: AtomicU64::new(0),
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn deliver(&self, device: &TestDevice) {
        let frames = [60, 1500, 9000].map(|len| plain(vec![2; len]));
        while !self.stopped() {
            let taken = device.deliver(&frames);
            let taken = taken.iter().filter(|taken| **taken).count();
            self.taken.fetch_add(taken as u64, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn send_some(front: &mut NetFront, n: u8) {
    for queue in front.queues() {
        for _ in 0..10 {
            queue.send(&outgoing(&[n; 300]));
            let group = [1, 0, 0x5e, 0, 0, n];
            for kind in [
                XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
                XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
            ] {
                let extra = NetifExtraInfo::mcast(kind, group, 0);
                queue.send_with(&outgoing(&[n; 60]), &[extra]);
            }
        }
        queue.kick();
    }
}

/// Connects and disconnects an interface again and again while two threads deliver to it, one reads its counters and changes its
/// limits, and the front end sends and joins groups.
fn toggle(orderly: bool) {
    let _alone = alone();
    let before = used();
    let options = several(3);
    let vif = Vif::connect(TestDevice::pushed(4), BackendOptions::default(), &options);
    let (world, device) = (vif.world, vif.device);
    let mut front = Some(vif.front);
    let control = vif.backend.control();
    let stats = vif.backend.stats();
    let running = World::serve(vif.backend);
    let others = Others::new();
    std::thread::scope(|scope| {
        let _end = StopAtEnd(&others.stop);
        for _ in 0..2 {
            scope.spawn(|| others.deliver(&device));
        }
        scope.spawn(|| {
            let mut last = 0;
            while !others.stopped() {
                let (rx, tx) = (stats.rx.counts(), stats.tx.counts());
                assert!(rx.packets >= last, "counters go on over connections");
                last = rx.packets;
                control.set_link(tx.packets % 7 != 3);
                control.set_rx_rate(None);
                control.set_mtu(1500);
                std::thread::sleep(Duration::from_micros(300));
            }
            control.set_link(true);
        });
        let mut in_use = Vec::new();
        for n in 0..25_u8 {
            let mut own = front.take().unwrap();
            send_some(&mut own, n);
            if n % 3 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            if !orderly {
                // A front end that dies while everything goes on writes nothing more, and its toolstack begins anew.
                own.set_state(XenbusState::CLOSING);
            }
            own.set_state(XenbusState::CLOSED);
            assert!(own.wait_state(XenbusState::CLOSED, PATIENCE));
            assert_nothing_mapped(&world);
            assert_eq!(device.deliver(&[plain(vec![2; 60])]), [false]);
            drop(own);
            let next = world.front(&options);
            next.set_state(XenbusState::INITIALISING);
            let waits = next.wait_state(XenbusState::INIT_WAIT, PATIENCE);
            assert!(waits, "{:?}", next.backend_state());
            next.set_state(XenbusState::CONNECTED);
            assert!(next.wait_state(XenbusState::CONNECTED, PATIENCE));
            front = Some(next);
            in_use.push(used());
        }
        // A thread that has just been started has no name yet.
        let (_, descriptors) = in_use[0];
        eventually(|| used() == (2, descriptors));
        assert_eq!(device.open().len(), 3);
    });
    drop(running);
    drop((front, control, world, device));
    eventually(|| used() == before);
}

#[test]
fn xsa_350_connect_and_disconnect_toggling() {
    toggle(true);
}

#[test]
fn xsa_527_multicast_list_while_its_queues_go() {
    toggle(false);
}

/// The counters outlive everything.
#[test]
fn xsa_528_stats_read_during_and_after_the_end() {
    let _alone = alone();
    let before = used();
    let vif = Vif::connect(
        TestDevice::pushed(4),
        BackendOptions::default(),
        &several(2),
    );
    let stats = vif.backend.stats();
    let control = vif.backend.control();
    let running = World::serve(vif.backend);
    assert_eq!(vif.device.deliver(&[plain(vec![2; 60])]), [true]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(stats.rx.counts().packets, 1);
            }
        });
        let end = StopAtEnd(&stop);
        drop(running);
        assert_eq!(vif.device.deliver(&[plain(vec![2; 60])]), [false]);
        drop(end);
    });
    assert_eq!(stats.rx.counts().packets, 1);
    control.set_rx_rate(None);
    control.set_link(false);
    drop((vif.front, vif.world, vif.device, control));
    eventually(|| used() == before);
}

/// An interface that is taken away, in good order or by force, while its queues' threads serve and others deliver.
#[test]
fn hot_unplug_with_threads_at_work() {
    let _alone = alone();
    for force in [false, true] {
        let before = used();
        let vif = Vif::connect(
            TestDevice::pushed(4),
            BackendOptions::default(),
            &several(3),
        );
        let (world, mut front) = (vif.world, vif.front);
        let running = World::serve(vif.backend);
        let others = Others::new();
        let client = world.store().client(DomId::DOM0).unwrap();
        let mut removal = Removal::begin(Arc::new(client), world.id().clone()).unwrap();
        std::thread::scope(|scope| {
            let _end = StopAtEnd(&others.stop);
            scope.spawn(|| others.deliver(&vif.device));
            send_some(&mut front, 1);
            std::thread::sleep(Duration::from_millis(10));
            if force {
                assert_eq!(removal.force().unwrap(), Removed::Forced);
            } else {
                assert!(front.wait_state(XenbusState::CLOSING, PATIENCE));
                send_some(&mut front, 2);
                front.set_state(XenbusState::CLOSED);
                eventually(|| removal.process().unwrap() == Removed::Orderly);
            }
            eventually(|| !vif.device.open().iter().any(|wire| wire.link()));
            eventually(|| vif.device.deliver(&[plain(vec![2; 60])]) == [false]);
        });
        let backend = running.stop();
        assert_nothing_mapped(&world);
        drop((backend, front, world, vif.device, removal));
        eventually(|| used() == before);
    }
}

/// What a connection has made is gone when it fails half-way, whichever key is wrong.
#[test]
fn a_connection_that_fails_half_way_leaves_nothing() {
    let _alone = alone();
    let before = used();
    for (key, value) in [
        ("queue-0/tx-ring-ref", "99999"),
        ("queue-1/rx-ring-ref", "99999"),
        ("queue-2/rx-ring-ref", ""),
        ("queue-2/event-channel-rx", "77777"),
        ("ctrl-ring-ref", "99999"),
        ("event-channel-ctrl", "77777"),
        ("event-channel-ctrl", ""),
        ("multi-queue-num-queues", "5"),
        ("multi-queue-num-queues", "0"),
    ] {
        let world = World::with_pages(514 * 3 + 8);
        let device = TestDevice::pushed(4);
        let backend = world.backend_with(Arc::new(device.clone()), BackendOptions::default());
        let mut backend = backend.unwrap();
        let mut options = several(3);
        options.keys = vec![(key.to_owned(), value.to_owned())];
        let front = world.front(&options);
        settle(&mut backend);
        assert_ne!(front.backend_state(), XenbusState::CONNECTED, "{key}");
        assert_nothing_mapped(&world);
        assert_eq!(device.open().len(), 1, "{key}");
        assert_eq!(device.deliver(&[plain(vec![2; 60])]), [false]);
        drop((backend, front, world, device));
        eventually(|| used() == before);
    }
}
