//! Connections that come and go.

use super::*;
use cantle_blkback::image::NullImage;
use cantle_blkback::test_utils::{BlkFront, Fault, FaultImage, FrontError};
use cantle_xenstore::xenbus::XenbusState;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_millis(300);

/// A flood of state changes is one more look at the state, not work for each; the disk goes on afterwards.
#[test]
fn xsa_349_state_flood() {
    let (world, disk) = served(null_disk());
    let mut front = world.front_with(four()).unwrap();
    for _ in 0..20_000 {
        front.set_state(XenbusState::CONNECTED).unwrap();
    }
    for queue in front.queues_mut() {
        queue.read(0, 4096).unwrap();
    }
    assert!(!disk.is_finished());
    let stats = disk.stats().snapshot();
    assert_eq!((stats.connects, stats.reads), (1, 4));
}

/// Connect and disconnect in quick succession, in and out of order: no stale ring, no leak, and the last one works.
#[test]
fn xsa_350_connect_toggle() {
    for queues in [1, 4] {
        connect_toggle(queues);
    }
}

fn connect_toggle(queues: u16) {
    let (world, disk) = served(null_disk());
    let options = FrontOptions {
        queues,
        ..FrontOptions::default()
    };
    let mut random = Random::new(350);
    for _ in 0..60 {
        let mut front = BlkFront::start_with(&world, options).unwrap();
        for _ in 0..random.below(4) {
            let states = [
                XenbusState::INITIALISING,
                XenbusState::INITIALISED,
                XenbusState::CONNECTED,
                XenbusState::CLOSING,
                XenbusState::CLOSED,
                XenbusState(99),
            ];
            let state = states[random.below(6) as usize];
            front.set_state(state).unwrap();
            if random.below(2) == 0 {
                for queue in front.queues_mut() {
                    let _ = queue.notify();
                }
                std::thread::yield_now();
            }
        }
        front.set_state(XenbusState::CLOSED).unwrap();
        front.wait_state(XenbusState::CLOSED).unwrap();
        front.set_state(XenbusState::INITIALISING).unwrap();
        front.wait_state(XenbusState::INIT_WAIT).unwrap();
    }
    let table = world.guest().table().stats();
    assert_eq!(
        table.maps, table.unmaps,
        "every ring's page was let go: {table:?}"
    );
    let mut front = world.front_with(options).unwrap();
    for queue in front.queues_mut() {
        queue.read(0, 1 << 16).unwrap();
    }
    drop(front);
    drop(disk);
}

/// Counters are read all the while that rings come and go, and after everything is gone.
#[test]
fn xsa_528_stats_during_teardown() {
    let (world, disk) = served(null_disk());
    let stats = Arc::clone(disk.stats());
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (stats, stop) = (Arc::clone(&stats), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let now = stats.snapshot().reads;
                assert!(now >= last, "counters never go back");
                last = now;
            }
        })
    };
    for _ in 0..30 {
        let mut front = world.front_with(four()).unwrap();
        for queue in front.queues_mut() {
            queue.random_reads(8, 50, 528).unwrap();
        }
        front.close().unwrap();
    }
    disk.stop().1.unwrap();
    assert_eq!(stats.snapshot().reads, 6000);
    assert_eq!(stats.snapshot().connects, 30);
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

/// Pages stay mapped until the disk is done with them, also when the front end goes away meanwhile; and the backend's thread
/// does not hang in the handshake.
#[test]
fn disconnecting_waits_for_what_is_in_flight() {
    let image = FaultImage::new(NullImage::new(SECTORS).unwrap()).unwrap();
    let faults = image.faults();
    faults.plan(|_| Fault::Hold);
    let world = World::new();
    let disk = world.serve(world.backend(Box::new(image)).unwrap());
    let mut front = world.front().unwrap();
    let request = front.request(0, &read(0, 45056));
    front.push(&request).unwrap();
    front.kick().unwrap();
    let wait_until = |what: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(5);
        while !what() {
            assert!(Instant::now() < end, "it does not happen");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    wait_until(&|| faults.held() == 1);
    front.set_state(XenbusState::CLOSED).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let gref = front.page(0, 10).unwrap().gref;
    assert!(
        !world.guest().end_access(gref),
        "the disk may still write to it"
    );
    assert!(!disk.is_finished());
    faults.release();
    front.wait_state(XenbusState::CLOSED).unwrap();
    assert!(world.guest().end_access(gref), "it was let go");
    let table = world.guest().table().stats();
    assert_eq!(table.maps, table.unmaps);
}

/// An embedder that polls is not held up by a disk that does not answer, not even to disconnect.
#[test]
fn polling_never_waits_for_the_disk() {
    let image = FaultImage::new(NullImage::new(SECTORS).unwrap()).unwrap();
    let faults = image.faults();
    faults.plan(|_| Fault::Hold);
    let world = World::new();
    let mut backend = world.backend(Box::new(image)).unwrap();
    let mut front = BlkFront::start(&world).unwrap();
    while !front.finish().unwrap() {
        backend.process().unwrap();
    }
    let request = front.request(0, &read(0, 4096));
    front.push(&request).unwrap();
    front.kick().unwrap();
    backend.process().unwrap();
    assert_eq!(faults.held(), 1);
    front.set_state(XenbusState::CLOSED).unwrap();
    let polling = std::thread::spawn(move || {
        for _ in 0..20 {
            backend.process().unwrap();
        }
        backend
    });
    let end = Instant::now() + Duration::from_secs(5);
    while !polling.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    let waited = !polling.is_finished();
    faults.release();
    assert!(!waited);
    let mut backend = polling.join().unwrap();
    assert_eq!(
        backend.state(),
        XenbusState::CONNECTED,
        "not before the disk is done"
    );
    while backend.state() != XenbusState::CLOSED {
        assert!(Instant::now() < end);
        backend.process().unwrap();
    }
}

#[test]
fn silence_is_noticed() {
    // The front end's own patience, which the tests above rely on.
    let world = World::new();
    let _backend = world.backend(null()).unwrap();
    let mut front = BlkFront::start(&world).unwrap();
    let nothing = front.wait_response_for(PATIENCE);
    assert!(matches!(nothing, Err(FrontError::Silence)));
}
