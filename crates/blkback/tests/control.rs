//! What an embedder says to a disk that is being served: a disk that has stopped goes on, media change, disks grow.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cantle_abi::io::blkif::{
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
    VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE,
};
use cantle_blkback::image::{Disk, ImageError, IoOp, NullDisk, NullImage, RawDisk, RawOptions};
use cantle_blkback::test_utils::{
    BlkFront, Fault, FaultDisk, FrontError, FrontOptions, FrontQueue, Random, Served, Transfer,
    World, wait_until,
};
use cantle_blkback::{BackendOptions, DiskControl, DiskKind, OnError};
use cantle_xenstore::xenbus::XenbusState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::NamedTempFile;

const SECTORS: u64 = 8192;
const ENOSPC: ImageError = ImageError::Host(28);
const EIO: ImageError = ImageError::Host(5);

fn options(on_error: OnError) -> BackendOptions {
    BackendOptions {
        on_error,
        max_queues: 4,
        ..BackendOptions::default()
    }
}

fn queues(queues: u16) -> FrontOptions {
    FrontOptions {
        queues,
        ..FrontOptions::default()
    }
}

fn filled(byte: u8, sectors: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![byte; sectors as usize * 512]).unwrap();
    file
}

fn raw(file: &NamedTempFile) -> Arc<RawDisk> {
    Arc::new(RawDisk::open(file.path(), &RawOptions::default()).unwrap())
}

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

fn pause() {
    std::thread::sleep(Duration::from_millis(60));
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

#[test]
fn a_cd_is_read_only_whatever_its_image_is() {
    let file = filled(0xcd, SECTORS);
    let world = World::new();
    let options = BackendOptions {
        kind: DiskKind::Cdrom,
        ..BackendOptions::default()
    };
    let disk = world.serve(world.backend_of(raw(&file), options).unwrap());
    let mut front = world.front().unwrap();
    let info = VDISK_CDROM | VDISK_REMOVABLE | VDISK_READONLY;
    assert_eq!(front.backend_key("info").unwrap(), info.to_string());
    assert_eq!(front.backend_key("feature-discard").unwrap(), "0");
    assert_eq!(front.read(8, 4096).unwrap(), [0xcd; 4096]);
    assert!(front.write(8, &[0; 4096]).is_err());
    assert!(front.discard(8, 64, false).is_err());
    front.put_into(0, &[0; 4096]);
    let transfer = Transfer {
        operation: BLKIF_OP_WRITE_BARRIER,
        sector: 8,
        bytes: 4096,
    };
    let barrier = front.request(0, &transfer);
    assert_eq!(front.ask(&barrier).unwrap().status, BLKIF_RSP_ERROR);
    front.flush().unwrap();
    let on_disk = std::fs::read(file.path()).unwrap();
    assert!(
        on_disk.iter().all(|byte| *byte == 0xcd),
        "nothing was written"
    );
    // And so is the next one in the drive.
    let next = filled(0xce, SECTORS / 2);
    disk.control().insert(raw(&next));
    front
        .wait_key("sectors", &(SECTORS / 2).to_string())
        .unwrap();
    assert!(front.write(8, &[0; 4096]).is_err());
    assert!(
        std::fs::read(next.path())
            .unwrap()
            .iter()
            .all(|byte| *byte == 0xce)
    );
}

#[test]
fn a_medium_is_taken_out_and_another_put_in() {
    let (one, two) = (filled(1, SECTORS), filled(2, 2 * SECTORS));
    for (kind, info) in [
        (DiskKind::Removable, VDISK_REMOVABLE),
        (
            DiskKind::Cdrom,
            VDISK_CDROM | VDISK_REMOVABLE | VDISK_READONLY,
        ),
    ] {
        let world = World::with_memory(4096);
        let backend = BackendOptions {
            kind,
            max_queues: 4,
            ..BackendOptions::default()
        };
        let disk = world.serve(world.backend_of(raw(&one), backend).unwrap());
        let mut front = world.front_with(queues(4)).unwrap();
        for _ in 0..5 {
            for queue in front.queues_mut() {
                assert_eq!(queue.read(0, 4096).unwrap(), [1; 4096]);
            }
            disk.control().eject();
            // The state is written again with it, which is what a driver watches.
            front.wait_key("sectors", "0").unwrap();
            assert_eq!(front.backend_key("info").unwrap(), info.to_string());
            for queue in front.queues_mut() {
                let read = queue.read(0, 4096);
                assert!(matches!(read, Err(FrontError::Status(BLKIF_RSP_ERROR))));
            }
            disk.control().insert(raw(&two));
            front
                .wait_key("sectors", &(2 * SECTORS).to_string())
                .unwrap();
            assert_eq!(front.look_at_size().unwrap(), 2 * SECTORS);
            for queue in front.queues_mut() {
                assert_eq!(queue.read(2 * SECTORS - 8, 4096).unwrap(), [2; 4096]);
            }
            disk.control().insert(raw(&one));
            front.wait_key("sectors", &SECTORS.to_string()).unwrap();
        }
        let stats = disk.stats().snapshot();
        assert_eq!(
            (stats.connects, stats.broken),
            (1, 0),
            "one connection all the time"
        );
    }
}

#[test]
fn a_drive_may_be_empty_when_the_guest_comes() {
    let world = World::new();
    let file = filled(3, SECTORS);
    let empty = Arc::new(NullDisk { sectors: 0 });
    let backend = BackendOptions {
        kind: DiskKind::Cdrom,
        ..BackendOptions::default()
    };
    let disk = world.serve(world.backend_of(empty, backend).unwrap());
    // Nobody is connected: it is done all the same.
    disk.control().insert(raw(&file));
    disk.control().eject();
    disk.control().insert(raw(&file));
    pause();
    let mut front = world.front().unwrap();
    assert_eq!(front.sectors(), SECTORS);
    assert_eq!(front.read(0, 512).unwrap(), [3; 512]);
    disk.control().eject();
    front.wait_key("sectors", "0").unwrap();
    front.close().unwrap();
    let front = world.front().unwrap();
    assert_eq!(front.sectors(), 0);
}

#[test]
fn a_backend_of_one_image_keeps_it() {
    let world = World::new();
    let image = NullImage::new(SECTORS).unwrap();
    let disk = world.serve(world.backend(Box::new(image)).unwrap());
    let mut front = world.front().unwrap();
    disk.control().eject();
    disk.control().insert(Arc::new(NullDisk { sectors: 8 }));
    pause();
    front.read(SECTORS - 8, 4096).unwrap();
    assert_eq!(front.look_at_size().unwrap(), SECTORS);
}

#[test]
fn a_disk_that_grows_is_larger_at_once_on_all_queues() {
    let file = filled(4, SECTORS);
    let image = raw(&file);
    let world = World::with_memory(4096);
    let backend = world.backend_of(image.clone(), options(OnError::Report));
    let disk = world.serve(backend.unwrap());
    let mut front = world.front_with(queues(4)).unwrap();
    for round in 1..=10 {
        let sectors = SECTORS + round * 64;
        assert!(front.read(sectors - 8, 4096).is_err(), "not there yet");
        image.grow(sectors).unwrap();
        disk.control().resized();
        front.wait_key("sectors", &sectors.to_string()).unwrap();
        front.look_at_size().unwrap();
        for (number, queue) in front.queues_mut().enumerate() {
            assert_eq!(queue.sectors(), sectors);
            let at = sectors - 32 + number as u64 * 8;
            assert_eq!(queue.read(at, 4096).unwrap(), [0; 4096]);
            queue.write(at, &[number as u8 + 1; 4096]).unwrap();
        }
        let read = front.read(sectors - 4, 4096);
        assert!(matches!(read, Err(FrontError::Status(BLKIF_RSP_ERROR))));
    }
    assert_eq!(
        file.as_file().metadata().unwrap().len(),
        (SECTORS + 640) * 512
    );
    assert_eq!(disk.stats().snapshot().connects, 1);
}

/// Four queues at work while the medium changes, again and again, to one with the same contents: each request is answered once, and
/// with the right bytes.
#[test]
fn media_change_under_load() {
    let mut random = Random::new(77);
    let mut contents = vec![0_u8; SECTORS as usize * 512];
    contents.fill_with(|| random.below(256) as u8);
    let files = [(); 2].map(|()| NamedTempFile::new().unwrap());
    for file in &files {
        std::fs::write(file.path(), &contents).unwrap();
    }
    for persistent in [false, true] {
        let world = World::with_memory(4096);
        let backend = world.backend_of(raw(&files[0]), options(OnError::Report));
        let disk = world.serve(backend.unwrap());
        let mut front = world
            .front_with(FrontOptions {
                persistent,
                ..queues(4)
            })
            .unwrap();
        let stop = AtomicBool::new(false);
        let (stop, contents) = (&stop, &contents);
        let total = std::thread::scope(|scope| {
            let threads: Vec<_> = front
                .queues_mut()
                .enumerate()
                .map(|(number, queue)| {
                    scope.spawn(move || reads(queue, number as u64 + 1, contents, stop))
                })
                .collect();
            let control = disk.control();
            let end = Instant::now() + Duration::from_millis(700);
            let mut changes = 0_usize;
            while Instant::now() < end {
                changes += 1;
                control.insert(raw(&files[changes % 2]));
                if changes % 3 == 0 {
                    control.resized();
                    control.resume();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            stop.store(true, Ordering::Relaxed);
            let total = threads.into_iter().map(|t| t.join().unwrap());
            total.sum::<u64>()
        });
        let stats = disk.stats().snapshot();
        assert_eq!((stats.reads, stats.failed, stats.refused), (total, 0, 0));
        front.close().unwrap();
        assert_eq!(world.mapped(), 0);
    }
}

/// Batches of reads, checked; how many there were.
fn reads(queue: &mut FrontQueue, seed: u64, contents: &[u8], stop: &AtomicBool) -> u64 {
    let mut random = Random::new(seed);
    let mut total = 0;
    while !stop.load(Ordering::Relaxed) {
        let count = 1 + random.below(32) as usize;
        let places: Vec<_> = (0..count).map(|_| random.below(SECTORS - 16)).collect();
        for (slot, sector) in places.iter().enumerate() {
            let transfer = Transfer {
                operation: BLKIF_OP_READ,
                sector: *sector,
                bytes: 8192,
            };
            let request = queue.request(slot, &transfer);
            queue.push(&request).unwrap();
        }
        queue.kick().unwrap();
        let mut answered = vec![false; count];
        for _ in 0..count {
            let answer = queue.wait_response().unwrap();
            assert_eq!(answer.status, BLKIF_RSP_OKAY);
            let slot = answer.id as usize;
            assert!(
                !std::mem::replace(&mut answered[slot], true),
                "answered twice"
            );
            let mut bytes = [0; 8192];
            queue.take_from(slot, &mut bytes);
            let at = places[slot] as usize * 512;
            assert!(bytes == contents[at..at + 8192]);
        }
        assert!(queue.response().unwrap().is_none());
        total += count as u64;
    }
    total
}

/// Whoever has the control may keep it: it is harmless when the backend is gone.
#[test]
fn a_control_outlives_its_disk() {
    let world = World::new();
    let disk: Arc<dyn Disk> = Arc::new(NullDisk { sectors: 8 });
    let backend = world.backend_of(disk.clone(), BackendOptions::default());
    let control = backend.unwrap().control();
    control.insert(disk);
    control.resume();
    assert!(!control.is_stopped() && !is_readable(&control));
    assert!(control.stopped_event().as_fd().try_clone_to_owned().is_ok());
}
