//! Media that come, go and grow.

use super::*;
use cantle_abi::io::blkif::{
    BLKIF_OP_READ, BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, VDISK_CDROM,
    VDISK_READONLY, VDISK_REMOVABLE,
};
use cantle_blkback::image::{NullDisk, NullImage};
use cantle_blkback::test_utils::{
    BlkFront, Fault, FaultDisk, FrontError, FrontQueue, Random, Transfer, World,
};
use cantle_blkback::{DiskKind, Progress};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

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
    drop(disk.control().insert(raw(&file)));
    outcome(&disk.control().eject()).unwrap().unwrap();
    outcome(&disk.control().insert(raw(&file)))
        .unwrap()
        .unwrap();
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
    let other = Arc::new(NullDisk { sectors: 8 });
    for refused in [disk.control().eject(), disk.control().insert(other)] {
        let error = outcome(&refused).unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    }
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
        let ends = std::thread::scope(|scope| {
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
                if changes.is_multiple_of(3) {
                    control.resized();
                    control.resume();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            stop.store(true, Ordering::Relaxed);
            let ends = threads.into_iter().map(|t| t.join().unwrap());
            ends.collect::<Vec<_>>()
        });
        if ends.iter().any(Result::is_err) {
            // Which queue is silent, and why: the backend's own view says more than that it is.
            eprintln!("{ends:?}, {:?}", disk.stats().snapshot());
            panic!("ended: {}, {:?}", disk.is_finished(), disk.stop());
        }
        let total: u64 = ends.into_iter().flatten().sum();
        let stats = disk.stats().snapshot();
        assert_eq!((stats.reads, stats.failed, stats.refused), (total, 0, 0));
        front.close().unwrap();
        assert_eq!(world.mapped(), 0);
    }
}

/// Batches of reads, checked; how many there were.
fn reads(
    queue: &mut FrontQueue,
    seed: u64,
    contents: &[u8],
    stop: &AtomicBool,
) -> Result<u64, FrontError> {
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
            let answer = queue.wait_response()?;
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
    Ok(total)
}

/// An order waits for a disk that dawdles; meanwhile nobody is kept awake by it.
#[test]
fn an_order_that_waits_for_the_disk_keeps_nobody_awake() {
    let faults = FaultDisk::new(NullDisk { sectors: SECTORS });
    let world = World::new();
    let backend = world.backend_of(faults.clone(), options(OnError::Report));
    let mut backend = backend.unwrap();
    let mut front = BlkFront::start(&world).unwrap();
    while !front.finish().unwrap() {
        backend.process().unwrap();
    }
    while backend.process().unwrap() == Progress::More {}
    faults.plan(|_| Fault::Hold);
    let transfer = Transfer {
        operation: BLKIF_OP_READ,
        sector: 0,
        bytes: 4096,
    };
    let request = front.request(0, &transfer);
    front.push(&request).unwrap();
    front.kick().unwrap();
    while backend.process().unwrap() == Progress::More {}
    assert_eq!(faults.held(), 1);
    backend.control().insert(Arc::new(NullDisk { sectors: 16 }));
    for _ in 0..10 {
        backend.process().unwrap();
    }
    let mut fds = [PollFd::from_borrowed_fd(backend.fd(), PollFlags::IN)];
    let awake = poll(&mut fds, Some(&Timespec::default())).unwrap();
    // Nor is one that comes meanwhile forgotten.
    backend.control().insert(Arc::new(NullDisk { sectors: 24 }));
    faults.release();
    assert_eq!(awake, 0);
    for _ in 0..10 {
        backend.process().unwrap();
    }
    assert_eq!(front.response().unwrap().unwrap().status, BLKIF_RSP_OKAY);
    assert_eq!(front.look_at_size().unwrap(), 24);
}
