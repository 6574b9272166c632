//! Several queues: each is served by a thread of its own, and they come and go together.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cantle_abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_OKAY};
use cantle_blkback::image::{NullDisk, NullImage, RawDisk, RawOptions};
use cantle_blkback::test_utils::{
    BACK, BlkFront, Fault, FaultDisk, FrontError, FrontOptions, FrontQueue, Served, Transfer,
    World, copy_in, wait_until,
};
use cantle_blkback::{BackendOptions, Protocol};
use cantle_xenstore::xenbus::{Removal, Removed, XenbusState};
use tempfile::NamedTempFile;

const SECTORS: u64 = 8192;
const QUEUES: u16 = 4;

fn options() -> BackendOptions {
    BackendOptions {
        max_queues: QUEUES,
        ..BackendOptions::default()
    }
}

fn four() -> FrontOptions {
    FrontOptions {
        queues: QUEUES,
        ..FrontOptions::default()
    }
}

fn world() -> World {
    World::with_memory(4096)
}

fn null(world: &World) -> Served {
    let disk = Arc::new(NullDisk { sectors: SECTORS });
    world.serve(world.backend_of(disk, options()).unwrap())
}

fn held(world: &World) -> (Served, BlkFront, Arc<FaultDisk>) {
    let faults = FaultDisk::new(NullDisk { sectors: SECTORS });
    faults.plan(|_| Fault::Hold);
    let disk = world.serve(world.backend_of(faults.clone(), options()).unwrap());
    let front = world.front_with(four()).unwrap();
    disk.come_to_rest(&front).unwrap();
    (disk, front, faults)
}

fn send(queue: &mut FrontQueue, count: usize) {
    for slot in 0..count {
        let transfer = Transfer {
            operation: if slot % 2 == 0 {
                BLKIF_OP_READ
            } else {
                BLKIF_OP_WRITE
            },
            sector: slot as u64 * 8,
            bytes: 8192,
        };
        let request = queue.request(slot, &transfer);
        queue.push(&request).unwrap();
    }
    queue.kick().unwrap();
}

fn answers(queue: &mut FrontQueue, count: usize) {
    let mut ids: Vec<_> = (0..count)
        .map(|_| {
            let answer = queue.wait_response().unwrap();
            assert_eq!(answer.status, BLKIF_RSP_OKAY);
            answer.id
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..count as u64).collect::<Vec<_>>());
    assert!(queue.response().unwrap().is_none());
}

#[test]
fn all_queues_are_served_at_once() {
    let world = world();
    let (disk, mut front, faults) = held(&world);
    let offered = front.backend_key("multi-queue-max-queues").unwrap();
    assert_eq!(offered, "4");
    front.queues_mut().for_each(|queue| send(queue, 32));
    // Nothing is over, and each queue has all of its own under way.
    wait_until(|| faults.held() == 4 * 32);
    faults.release();
    front.queues_mut().for_each(|queue| answers(queue, 32));
    assert_eq!(disk.stats().snapshot().connects, 1);
}

#[test]
fn what_one_queue_has_written_the_others_read() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(SECTORS * 512).unwrap();
    let image = RawDisk::open(file.path(), &RawOptions::default()).unwrap();
    for protocol in [Protocol::Native, Protocol::X86_32] {
        let world = world();
        let image = Arc::new(RawDisk::open(file.path(), &RawOptions::default()).unwrap());
        let disk = world.serve(world.backend_of(image, options()).unwrap());
        let mut front = world
            .front_with(FrontOptions {
                protocol,
                persistent: protocol == Protocol::Native,
                ..four()
            })
            .unwrap();
        let part = SECTORS / u64::from(QUEUES);
        std::thread::scope(|scope| {
            for (number, queue) in front.queues_mut().enumerate() {
                scope.spawn(move || {
                    let start = number as u64 * part;
                    for round in 0..100_u64 {
                        let value = [number as u8 * 50 + round as u8 % 50; 4096];
                        for block in 0..8 {
                            queue
                                .write(start + (round % 4 * 8 + block) * 8, &value)
                                .unwrap();
                        }
                        let back = queue.read(start + round % 4 * 64, 8 * 4096).unwrap();
                        assert!(back.chunks(4096).all(|block| block == value));
                        queue.flush().unwrap();
                    }
                });
            }
        });
        let all: Vec<_> = front
            .queues_mut()
            .map(|queue| queue.read(0, SECTORS as usize * 512).unwrap())
            .collect();
        let on_disk = std::fs::read(file.path()).unwrap();
        assert!(all.iter().all(|seen| *seen == on_disk));
        assert_eq!(disk.stats().snapshot().failed, 0);
        front.close().unwrap();
    }
    drop(image);
}

#[test]
fn any_broken_queue_disconnects_this_device_and_no_more() {
    let neighbour = world();
    let its = null(&neighbour);
    let mut good = neighbour.front_with(four()).unwrap();
    for broken in 0..usize::from(QUEUES) {
        let world = world();
        let disk = null(&world);
        let mut front = world.front_with(four()).unwrap();
        front.queues_mut().for_each(|queue| send(queue, 8));
        front.queues_mut().for_each(|queue| answers(queue, 8));
        let queue = front.queue(broken).unwrap();
        copy_in(&queue.ring_page().memory, 0, &5000_u32.to_ne_bytes());
        queue.notify().unwrap();
        front.wait_state(XenbusState::CLOSING).unwrap();
        assert_eq!(world.mapped(), 0, "queue {broken}");
        front.close().unwrap();
        let mut front = world.front_with(four()).unwrap();
        front.queues_mut().for_each(|queue| send(queue, 8));
        front.queues_mut().for_each(|queue| answers(queue, 8));
        assert_eq!(disk.stats().snapshot().broken, 1);
        good.queues_mut().for_each(|queue| send(queue, 8));
        good.queues_mut().for_each(|queue| answers(queue, 8));
    }
    assert_eq!(its.stats().snapshot().broken, 0);
}

#[test]
fn queues_that_break_together_while_the_disk_dawdles_are_waited_for() {
    let world = world();
    let (disk, mut front, faults) = held(&world);
    front.queues_mut().for_each(|queue| send(queue, 4));
    wait_until(|| faults.held() == 16);
    for queue in front.queues_mut() {
        copy_in(&queue.ring_page().memory, 0, &5000_u32.to_ne_bytes());
        queue.notify().unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    let page = front.queue(3).unwrap().page(0, 0).unwrap().gref;
    assert!(
        !world.guest().end_access(page),
        "the disk may still write to it"
    );
    faults.release();
    front.wait_state(XenbusState::CLOSING).unwrap();
    assert_eq!(world.mapped(), 0);
    front.close().unwrap();
    faults.plan(|_| Fault::Pass);
    let mut front = world.front_with(four()).unwrap();
    front.queues_mut().for_each(|queue| send(queue, 8));
    front.queues_mut().for_each(|queue| answers(queue, 8));
    assert!(!disk.is_finished());
}

#[test]
fn unplug_in_good_order_lets_all_queues_finish() {
    let world = world();
    let (disk, mut front, faults) = held(&world);
    front.queues_mut().for_each(|queue| send(queue, 32));
    wait_until(|| faults.held() == 4 * 32);
    let mut removal = Removal::begin(world.client(BACK).unwrap(), world.id().clone()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(removal.process().unwrap(), Removed::NotYet);
    faults.release();
    front.queues_mut().for_each(|queue| answers(queue, 32));
    front.wait_state(XenbusState::CLOSING).unwrap();
    // It is still served, by all queues.
    for queue in front.queues_mut() {
        queue.write(0, &[7; 4096]).unwrap();
    }
    front.set_state(XenbusState::CLOSED).unwrap();
    wait_until(|| disk.is_finished());
    disk.stop().1.unwrap();
    assert_eq!(removal.process().unwrap(), Removed::Orderly);
    assert_eq!(world.mapped(), 0);
}

#[test]
fn forced_unplug_waits_for_what_all_queues_have_under_way() {
    let world = world();
    let (disk, mut front, faults) = held(&world);
    front.queues_mut().for_each(|queue| send(queue, 32));
    wait_until(|| faults.held() == 4 * 32);
    let mut removal = Removal::begin(world.client(BACK).unwrap(), world.id().clone()).unwrap();
    assert_eq!(removal.force().unwrap(), Removed::Forced);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!disk.is_finished());
    let grefs: Vec<_> = front
        .queues()
        .map(|queue| queue.page(0, 0).unwrap().gref)
        .collect();
    for gref in &grefs {
        assert!(
            !world.guest().end_access(*gref),
            "it may still be written to"
        );
    }
    faults.release();
    wait_until(|| disk.is_finished());
    disk.stop().1.unwrap();
    assert_eq!(world.mapped(), 0);
}

#[test]
fn a_front_end_that_goes_away_is_waited_for_on_all_queues() {
    let world = world();
    let (disk, mut front, faults) = held(&world);
    front.queues_mut().for_each(|queue| send(queue, 8));
    wait_until(|| faults.held() == 32);
    front.set_state(XenbusState::CLOSED).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_ne!(world.mapped(), 0);
    faults.release();
    front.wait_state(XenbusState::CLOSED).unwrap();
    assert_eq!(world.mapped(), 0);
    assert!(!disk.is_finished());
}

#[test]
fn an_embedder_that_stops_gets_the_backend_back_as_it_is() {
    let world = world();
    let disk = null(&world);
    let mut front = world.front_with(four()).unwrap();
    disk.come_to_rest(&front).unwrap();
    let (backend, result) = disk.stop();
    result.unwrap();
    // The further queues have threads of their own, and go on.
    let second = front.queue(1).unwrap();
    send(second, 4);
    answers(second, 4);
    // What the first is asked meanwhile waits.
    send(&mut front, 4);
    let disk = world.serve(backend);
    answers(&mut front, 4);
    drop(disk);
    assert_eq!(world.mapped(), 0);
}

#[test]
fn only_as_many_queues_as_were_offered() {
    let world = world();
    let _disk = null(&world);
    for (queues, key) in [(5, "5"), (17, "17"), (1, "0")] {
        let front = BlkFront::start_with(
            &world,
            FrontOptions {
                queues,
                ..FrontOptions::default()
            },
        )
        .unwrap();
        front.publish(&[("multi-queue-num-queues", key)]).unwrap();
        if queues > 1 {
            front.wait_state(XenbusState::CLOSING).unwrap();
            assert_eq!(world.mapped(), 0);
        }
        front.close().unwrap();
    }
    // An image without a disk has one queue.
    let image = NullImage::new(SECTORS).unwrap();
    let single = World::new();
    let _served = single.serve(single.backend(Box::new(image)).unwrap());
    let front = single.front_with(FrontOptions {
        queues: 2,
        ..FrontOptions::default()
    });
    assert!(matches!(
        front,
        Err(FrontError::State(XenbusState::CLOSING))
    ));
}

/// The third of four queues names a page, or a channel, that is not there: what was taken of the others is given back.
#[test]
fn one_queue_that_cannot_be_connected_gives_all_back() {
    let world = world();
    let disk = null(&world);
    for (key, value) in [
        ("queue-2/ring-ref", "30000"),
        ("queue-2/ring-ref", "x"),
        ("queue-3/event-channel", "99999"),
        ("queue-1/event-channel", "-4"),
    ] {
        let front = BlkFront::start_with(&world, four()).unwrap();
        front.set_state(XenbusState::CLOSED).unwrap();
        front.wait_state(XenbusState::CLOSED).unwrap();
        front.set_state(XenbusState::INITIALISING).unwrap();
        front.wait_state(XenbusState::INIT_WAIT).unwrap();
        front.publish(&[(key, value)]).unwrap();
        front.wait_state(XenbusState::CLOSING).unwrap();
        assert_eq!(world.mapped(), 0, "{key} {value}");
        front.close().unwrap();
    }
    let mut front = world.front_with(four()).unwrap();
    front.queues_mut().for_each(|queue| send(queue, 8));
    front.queues_mut().for_each(|queue| answers(queue, 8));
    drop(disk);
}

/// Counters go up by what all queues do, and are read meanwhile.
#[test]
fn all_queues_count_together() {
    let world = world();
    let disk = null(&world);
    let mut front = world.front_with(four()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let now = disk.stats().snapshot().reads;
                assert!(now >= last);
                last = now;
            }
        });
        let queues: Vec<_> = front
            .queues_mut()
            .map(|queue| scope.spawn(|| queue.random_reads(16, 2000, 4)))
            .collect();
        for thread in queues {
            thread.join().unwrap().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    let stats = disk.stats().snapshot();
    assert_eq!((stats.reads, stats.sectors_read), (8000, 64_000));
}
