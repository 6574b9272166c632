//! How disks come and go: connections in a loop, hot-unplug in good order and by force while requests are outstanding, and a
//! backend that takes over from one that died.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY};
use cantle_blkback::image::NullImage;
use cantle_blkback::test_utils::{
    BACK, BlkFront, Fault, FaultImage, Faults, Served, Transfer, World,
};
use cantle_xenstore::xenbus::{Removal, Removed, XenbusState, toolstack};

const SECTORS: u64 = 4096;

fn null() -> Box<NullImage> {
    Box::new(NullImage::new(SECTORS).unwrap())
}

/// A disk that holds every request back, served by a thread, and its connected front end.
fn held() -> (World, Served, BlkFront, Arc<Faults>) {
    let image = FaultImage::new(NullImage::new(SECTORS).unwrap()).unwrap();
    let faults = image.faults();
    faults.plan(|_| Fault::Hold);
    let world = World::new();
    let disk = world.serve(world.backend(Box::new(image)).unwrap());
    let front = world.front().unwrap();
    disk.come_to_rest(&front).unwrap();
    (world, disk, front, faults)
}

/// Sends as many requests as the ring has slots, and waits until the disk has them all.
fn send_all(front: &mut BlkFront, faults: &Faults) -> u64 {
    for slot in 0..32 {
        let transfer = Transfer {
            operation: if slot % 2 == 0 {
                BLKIF_OP_READ
            } else {
                BLKIF_OP_WRITE
            },
            sector: slot * 8,
            bytes: 4096,
        };
        let slot = usize::try_from(slot).unwrap();
        let request = front.request(slot, &transfer);
        front.push(&request).unwrap();
    }
    front.kick().unwrap();
    wait_until(|| faults.held() == 32);
    32
}

#[track_caller]
fn wait_until(mut what: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !what() {
        assert!(Instant::now() < end, "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn removal(world: &World) -> Removal {
    Removal::begin(world.client(BACK).unwrap(), world.id().clone()).unwrap()
}

/// Every page that was lent has been given back.
#[track_caller]
fn assert_nothing_mapped(world: &World) {
    let table = world.guest().table().stats();
    assert_eq!(table.maps, table.unmaps, "{table:?}");
}

#[test]
fn connections_in_a_loop_leave_nothing_behind() {
    let world = World::new();
    let disk = world.serve(world.backend(null()).unwrap());
    for round in 1..=100 {
        let mut front = world.front().unwrap();
        front.read(0, 1 << 14).unwrap();
        assert_eq!(disk.stats().snapshot().connects, round);
        front.close().unwrap();
        assert_nothing_mapped(&world);
    }
}

#[test]
fn hot_unplug_lets_outstanding_requests_finish() {
    let (world, disk, mut front, faults) = held();
    let sent = send_all(&mut front, &faults);
    let mut removal = removal(&world);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(removal.process().unwrap(), Removed::NotYet);
    assert!(!disk.is_finished());
    faults.release();
    for _ in 0..sent {
        assert_eq!(front.wait_response().unwrap().status, BLKIF_RSP_OKAY);
    }
    front.wait_state(XenbusState::CLOSING).unwrap();
    // It is still served: whoever has it mounted has things to write.
    faults.plan(|_| Fault::Pass);
    front.write(0, &[7; 4096]).unwrap();
    assert_eq!(removal.process().unwrap(), Removed::NotYet);
    front.set_state(XenbusState::CLOSED).unwrap();
    wait_until(|| disk.is_finished());
    disk.stop().1.unwrap();
    assert_eq!(removal.process().unwrap(), Removed::Orderly);
    assert_nothing_mapped(&world);
}

#[test]
fn forced_unplug_waits_for_the_disk_alone() {
    let (world, disk, mut front, faults) = held();
    send_all(&mut front, &faults);
    let mut removal = removal(&world);
    assert_eq!(removal.force().unwrap(), Removed::Forced);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!disk.is_finished());
    let gref = front.page(0, 0).unwrap().gref;
    assert!(
        !world.guest().end_access(gref),
        "the disk may still write to it"
    );
    faults.release();
    wait_until(|| disk.is_finished());
    disk.stop().1.unwrap();
    assert!(world.guest().end_access(gref), "it was let go");
    drop(front);
    assert_nothing_mapped(&world);
    // And the same disk once more.
    let disk = world.serve(world.backend(null()).unwrap());
    let mut front = world.front().unwrap();
    front.read(0, 4096).unwrap();
    drop(front);
    drop(disk);
}

#[test]
fn directories_that_vanish_under_a_working_disk_end_it() {
    let world = World::new();
    let disk = world.serve(world.backend(null()).unwrap());
    let mut front = world.front().unwrap();
    front.read(0, 1 << 16).unwrap();
    toolstack::destroy_device(&*world.client(BACK).unwrap(), world.id()).unwrap();
    wait_until(|| disk.is_finished());
    disk.stop().1.unwrap();
    assert_nothing_mapped(&world);
}

/// The front end notices nothing: its ring, its grants and its port are what they were.
#[test]
fn a_backend_takes_over_from_one_that_died() {
    let world = World::new();
    let mut disk = world.serve(world.backend(null()).unwrap());
    let mut front = world.front().unwrap();
    for round in 1..=10 {
        front.random_reads(8, 100, round).unwrap();
        let stats = Arc::clone(disk.stats());
        assert_eq!(
            (stats.snapshot().connects, stats.snapshot().reads),
            (1, 100)
        );
        drop(disk);
        assert_nothing_mapped(&world);
        disk = world.serve(world.backend_again(null()).unwrap());
        front.wait_state(XenbusState::CONNECTED).unwrap();
    }
    drop(front);
    drop(disk);
}
