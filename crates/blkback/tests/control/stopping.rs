//! A disk that stops where its host fails.

use super::*;
use cantle_abi::io::blkif::{
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
};
use cantle_blkback::DiskControl;
use cantle_blkback::image::{Disk, ImageError, IoOp, NullDisk};
use cantle_blkback::test_utils::{
    BACK, BlkFront, Fault, FaultDisk, FrontQueue, Served, Transfer, World, wait_until,
};
use cantle_xenstore::xenbus::{XenbusState, toolstack};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

const ENOSPC: ImageError = ImageError::Host(28);
const EIO: ImageError = ImageError::Host(5);

struct Setup {
    world: World,
    served: Served,
    front: BlkFront,
    faults: Arc<FaultDisk>,
    file: NamedTempFile,
}

fn setup(on_error: OnError, count: u16) -> Setup {
    let file = filled(0, SECTORS);
    let faults = FaultDisk::new(raw(&file));
    let world = World::with_memory(4096);
    let served = world.serve(world.backend_of(faults.clone(), options(on_error)).unwrap());
    let front = world.front_with(queues(count)).unwrap();
    served.come_to_rest(&front).unwrap();
    Setup {
        world,
        served,
        front,
        faults,
        file,
    }
}

fn is_readable(control: &DiskControl) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(
        control.stopped_event(),
        PollFlags::IN,
    )];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

fn push(queue: &mut FrontQueue, slot: usize, operation: u8, sector: u64, byte: u8) {
    queue.put_into(slot, &[byte; 4096]);
    let transfer = Transfer {
        operation,
        sector,
        bytes: 4096,
    };
    let request = queue.request(slot, &transfer);
    queue.push(&request).unwrap();
    queue.kick().unwrap();
}

#[test]
fn a_stopped_disk_is_a_pause_to_the_guest() {
    for count in [1, 4] {
        let mut it = setup(OnError::Stop, count);
        let control = it.served.control().clone();
        assert!(!control.is_stopped() && !is_readable(&control));
        it.faults.plan(|io| match io.op() {
            IoOp::Write => Fault::Fail(ENOSPC),
            _ => Fault::Pass,
        });
        for (number, queue) in it.front.queues_mut().enumerate() {
            push(
                queue,
                1,
                BLKIF_OP_WRITE,
                number as u64 * 8,
                0x40 + number as u8,
            );
        }
        wait_until(|| control.is_stopped() && is_readable(&control));
        pause();
        for queue in it.front.queues_mut() {
            assert!(
                queue.response().unwrap().is_none(),
                "no answer to what waits"
            );
            // Nor to what comes now, be it only a read.
            push(queue, 2, BLKIF_OP_READ, 0, 0);
        }
        pause();
        for queue in it.front.queues_mut() {
            assert!(queue.response().unwrap().is_none());
        }
        // Nothing has changed: it stops again.
        control.resume();
        wait_until(|| it.served.stats().snapshot().stops == 2);
        assert!(control.is_stopped() && is_readable(&control));
        for queue in it.front.queues_mut() {
            let early = queue.response().unwrap();
            // A read of a queue whose write had not been tried yet may have passed.
            assert!(early.is_none_or(|answer| answer.id == 2));
        }
        // Now there is room.
        it.faults.plan(|_| Fault::Pass);
        control.resume();
        wait_until(|| !control.is_stopped());
        assert!(!is_readable(&control));
        let stats = Arc::clone(it.served.stats());
        wait_until(|| stats.snapshot().writes == u64::from(count));
        wait_until(|| stats.snapshot().reads == u64::from(count));
        let on_disk = std::fs::read(it.file.path()).unwrap();
        for number in 0..usize::from(count) {
            let at = number * 4096;
            assert!(
                on_disk[at..at + 4096] == [0x40 + number as u8; 4096],
                "{number}"
            );
        }
        for queue in it.front.queues_mut() {
            while let Some(answer) = queue.response().unwrap() {
                assert_eq!(answer.status, BLKIF_RSP_OKAY);
            }
            queue.read(0, 4096).unwrap();
        }
        assert_eq!(stats.snapshot().failed, 0);
    }
}

#[test]
fn resuming_a_disk_that_works_changes_nothing() {
    let mut it = setup(OnError::Stop, 2);
    for _ in 0..50 {
        it.served.control().resume();
        it.front.read(0, 4096).unwrap();
    }
    assert_eq!(it.served.stats().snapshot().stops, 0);
}

#[test]
fn only_what_is_meant_stops_a_disk() {
    let short = ImageError::Short {
        done: 512,
        wanted: 4096,
    };
    let cases = [
        (OnError::Report, ENOSPC, false),
        (OnError::Report, EIO, false),
        (OnError::Report, short, false),
        (OnError::StopWhenFull, ENOSPC, true),
        (OnError::StopWhenFull, ImageError::Host(122), true),
        (OnError::StopWhenFull, EIO, false),
        (OnError::StopWhenFull, short, false),
        (OnError::Stop, EIO, true),
        (OnError::Stop, short, true),
        (OnError::Stop, ImageError::Unsupported, false),
        (OnError::Stop, ImageError::ReadOnly, false),
    ];
    for (on_error, error, stops) in cases {
        let mut it = setup(on_error, 1);
        it.faults.plan(move |_| Fault::Fail(error));
        push(&mut it.front, 0, BLKIF_OP_WRITE, 0, 1);
        if stops {
            wait_until(|| it.served.control().is_stopped());
            pause();
            assert!(it.front.response().unwrap().is_none(), "{error}");
            it.faults.plan(|_| Fault::Pass);
            it.served.control().resume();
            assert_eq!(it.front.wait_response().unwrap().status, BLKIF_RSP_OKAY);
        } else {
            let status = it.front.wait_response().unwrap().status;
            assert!(status < 0, "{error}");
            if matches!(error, ImageError::Host(_) | ImageError::Short { .. }) {
                assert_eq!(status, BLKIF_RSP_ERROR, "{error}");
            }
            assert!(!it.served.control().is_stopped());
            assert_eq!(it.served.stats().snapshot().failed, 1);
        }
    }
}

/// Each step of a barrier may be what a disk stops for; it is that step that is tried again.
#[test]
fn a_barrier_goes_on_where_it_stopped() {
    for failing in 0..3 {
        let mut it = setup(OnError::Stop, 1);
        let seen = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&seen);
        it.faults.plan(move |_| {
            if count.fetch_add(1, Ordering::Relaxed) == failing {
                Fault::Fail(EIO)
            } else {
                Fault::Pass
            }
        });
        push(&mut it.front, 0, BLKIF_OP_WRITE_BARRIER, 8, 0x77);
        wait_until(|| it.served.control().is_stopped());
        it.served.control().resume();
        assert_eq!(it.front.wait_response().unwrap().status, BLKIF_RSP_OKAY);
        assert_eq!(
            seen.load(Ordering::Relaxed),
            4,
            "three steps, one of them twice"
        );
        assert!(std::fs::read(it.file.path()).unwrap()[4096..8192] == [0x77; 4096]);
    }
}

#[test]
fn disconnecting_a_stopped_disk_gives_everything_back() {
    for count in [1, 4] {
        for orderly in [true, false] {
            let mut it = setup(OnError::Stop, count);
            let control = it.served.control().clone();
            it.faults.plan(|_| Fault::Fail(ENOSPC));
            for queue in it.front.queues_mut() {
                for slot in 0..8 {
                    push(queue, slot, BLKIF_OP_WRITE, slot as u64 * 8, 1);
                }
            }
            wait_until(|| control.is_stopped());
            if orderly {
                it.front.close().unwrap();
            } else {
                it.front.set_state(XenbusState::CLOSED).unwrap();
                it.front.wait_state(XenbusState::CLOSED).unwrap();
                // What waited was answered: as failed.
                for queue in it.front.queues_mut() {
                    while let Some(answer) = queue.response().unwrap() {
                        assert_eq!(answer.status, BLKIF_RSP_ERROR);
                    }
                }
                it.front.set_state(XenbusState::INITIALISING).unwrap();
                it.front.wait_state(XenbusState::INIT_WAIT).unwrap();
            }
            assert_eq!(it.world.mapped(), 0);
            assert!(!control.is_stopped() && !is_readable(&control));
            it.faults.plan(|_| Fault::Pass);
            let mut front = it.world.front_with(queues(count)).unwrap();
            for queue in front.queues_mut() {
                queue.write(0, &[9; 4096]).unwrap();
            }
            // An order that comes too late is no matter.
            control.resume();
            front.read(0, 4096).unwrap();
        }
    }
}

#[test]
fn a_stopped_disk_can_be_unplugged_and_stopped_for_good() {
    let mut it = setup(OnError::Stop, 4);
    it.faults.plan(|_| Fault::Fail(EIO));
    for queue in it.front.queues_mut() {
        push(queue, 0, BLKIF_OP_WRITE, 0, 1);
    }
    wait_until(|| it.served.control().is_stopped());
    // The embedder ends its thread; the backend is dropped with everything that waits.
    let (backend, result) = it.served.stop();
    result.unwrap();
    drop(backend);
    assert_eq!(it.world.mapped(), 0);
}

/// Another medium, and "go on", in one breath: what waited on all queues is tried again on the new one.
#[test]
fn what_waits_for_a_stopped_disk_goes_to_the_new_medium() {
    for round in 0..20 {
        let mut it = setup(OnError::Stop, 4);
        it.faults.plan(|_| Fault::Fail(EIO));
        for (number, queue) in it.front.queues_mut().enumerate() {
            push(
                queue,
                0,
                BLKIF_OP_WRITE,
                number as u64 * 8,
                0x60 + number as u8,
            );
        }
        wait_until(|| it.served.control().is_stopped());
        pause();
        let other = filled(0, SECTORS);
        it.served.control().insert(raw(&other));
        it.served.control().resume();
        for queue in it.front.queues_mut() {
            let answer = queue.wait_response_for(Duration::from_secs(5));
            assert_eq!(answer.unwrap().status, BLKIF_RSP_OKAY, "round {round}");
        }
        let on_disk = std::fs::read(other.path()).unwrap();
        for number in 0..4_usize {
            assert_eq!(on_disk[number * 4096], 0x60 + number as u8);
        }
        let old = std::fs::read(it.file.path()).unwrap();
        assert!(old.iter().all(|byte| *byte == 0));
    }
}

/// What is said to a disk that is taken away has no outcome, and whoever waits for one hears that.
#[test]
fn a_disk_that_was_taken_away_does_nothing_more() {
    let it = setup(OnError::Stop, 2);
    let control = it.served.control().clone();
    let client = it.world.client(BACK).unwrap();
    toolstack::destroy_device(&*client, it.world.id()).unwrap();
    wait_until(|| it.served.is_finished());
    let (_backend, result) = it.served.stop();
    result.unwrap();
    assert!(outcome(&control.eject()).is_none());
    assert!(outcome(&control.insert(raw(&it.file))).is_none());
}

/// Whoever has the control may keep it: it is harmless when the backend is gone.
#[test]
fn a_control_outlives_its_disk() {
    let world = World::new();
    let disk: Arc<dyn Disk> = Arc::new(NullDisk { sectors: 8 });
    let backend = world.backend_of(disk.clone(), BackendOptions::default());
    let control = backend.unwrap().control();
    // Nobody is there to do it.
    assert!(outcome(&control.insert(disk)).is_none());
    control.resume();
    assert!(!control.is_stopped() && !is_readable(&control));
    assert!(control.stopped_event().as_fd().try_clone_to_owned().is_ok());
}
