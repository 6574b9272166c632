//! A front end and the backend over a real ring, store, event channels and grants, on a temporary file.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::path::Path;

use cantle_abi::GrantRef;
use cantle_abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifRequest,
};
use cantle_blkback::image::{
    BlockImage, Caching, ImageError, IoOp, NullImage, RawImage, RawOptions,
};
use cantle_blkback::test_utils::{
    BlkFront, Fault, FaultImage, FrontError, Transfer, World, copy_in, copy_out,
};
use cantle_blkback::{BackendError, Progress};
use cantle_xenstore::xenbus::{XenbusState, toolstack};
use tempfile::NamedTempFile;

const SECTORS: u64 = 2048;

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) / 7 + i / 512 + seed).to_le_bytes()[0])
        .collect()
}

fn disk_file() -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pattern(0, 512 * SECTORS as usize)).unwrap();
    file
}

fn raw(path: &Path) -> Box<dyn BlockImage> {
    Box::new(RawImage::open(path, &RawOptions::default()).unwrap())
}

fn status_of(front: &mut BlkFront, break_it: impl FnOnce(&mut BlkifRequest)) -> i16 {
    let mut request = front.request(
        3,
        &Transfer {
            operation: BLKIF_OP_WRITE,
            sector: 100,
            bytes: 8192,
        },
    );
    break_it(&mut request);
    let answer = front.ask(&request).unwrap();
    assert_eq!(
        (answer.id, answer.operation),
        (request.id, request.operation)
    );
    answer.status
}

#[test]
fn what_is_written_is_read_and_is_in_the_file() {
    for caching in [Caching::Buffered, Caching::DirectIfPossible] {
        let file = disk_file();
        let options = RawOptions {
            caching,
            ..RawOptions::default()
        };
        let world = World::new();
        let image = RawImage::open(file.path(), &options).unwrap();
        let disk = world.serve(world.backend(Box::new(image)).unwrap());
        let mut front = world.front().unwrap();
        assert_eq!(front.sectors(), SECTORS);
        assert_eq!(front.read(0, 1 << 20).unwrap(), pattern(0, 1 << 20));
        for (sector, len) in [
            (0, 512),
            (9, 512 * 3),
            (100, 4096),
            (501, 45056),
            (1000, 300 * 512),
        ] {
            let data = pattern(len, len);
            front.write(sector, &data).unwrap();
            assert_eq!(front.read(sector, len).unwrap(), data);
            front.flush().unwrap();
            let at = 512 * sector as usize;
            assert_eq!(std::fs::read(file.path()).unwrap()[at..at + len], data);
        }
        let stats = disk.stats().snapshot();
        assert_eq!((stats.flushes, stats.refused, stats.failed), (5, 0, 0));
        assert_eq!(stats.sectors_written, 1 + 3 + 8 + 88 + 300);
        assert_eq!(stats.sectors_read, SECTORS + 400);
        front.close().unwrap();
    }
}

#[test]
fn parts_of_pages_go_where_they_belong() {
    let file = disk_file();
    let world = World::new();
    let _disk = world.serve(world.backend(raw(file.path())).unwrap());
    let mut front = world.front().unwrap();
    let mut request = front.request(
        0,
        &Transfer {
            operation: BLKIF_OP_READ,
            sector: 40,
            bytes: 3 * 4096,
        },
    );
    // The middle of the first page, the end of the second, and the second's page again from its start.
    (request.seg[0].first_sect, request.seg[0].last_sect) = (2, 3);
    (request.seg[1].first_sect, request.seg[1].last_sect) = (7, 7);
    request.seg[2] = request.seg[1];
    (request.seg[2].first_sect, request.seg[2].last_sect) = (0, 4);
    assert_eq!(front.ask(&request).unwrap().status, BLKIF_RSP_OKAY);
    let mut pages = [[0; 4096]; 2];
    for (n, page) in pages.iter_mut().enumerate() {
        copy_out(&front.page(0, n).unwrap().memory, 0, page);
    }
    let disk = &pattern(0, 512 * SECTORS as usize)[40 * 512..];
    assert_eq!(pages[0][1024..2048], disk[..1024]);
    assert_eq!(pages[1][3584..], disk[1024..1536]);
    assert_eq!(pages[1][..2560], disk[1536..4096]);
    assert_eq!(pages[0][..1024], [0; 1024]);
    assert_eq!(pages[0][2048..], [0; 2048]);
}

#[test]
fn every_malformed_request_is_answered_and_the_next_one_works() {
    let file = disk_file();
    let world = World::new();
    let disk = world.serve(world.backend(raw(file.path())).unwrap());
    let mut front = world.front().unwrap();
    let unsupported = [4, 7, 255];
    for operation in unsupported {
        let status = status_of(&mut front, |r| r.operation = operation);
        assert_eq!(status, BLKIF_RSP_EOPNOTSUPP, "{operation}");
    }
    let breaks: [fn(&mut BlkifRequest); 11] = [
        |r| r.nr_segments = 0,
        |r| r.nr_segments = 12,
        |r| r.nr_segments = 255,
        |r| r.seg[1].first_sect = 8,
        |r| (r.seg[1].first_sect, r.seg[1].last_sect) = (3, 2),
        |r| r.seg[0].last_sect = 200,
        |r| r.sector_number = SECTORS - 15,
        |r| r.sector_number = u64::MAX - 3,
        |r| r.seg[1].gref = GrantRef(0xffff_ffff),
        |r| r.seg[0].gref = GrantRef(9000),
        |r| {
            r.operation = BLKIF_OP_FLUSH_DISKCACHE;
            r.seg[0].gref = GrantRef(9000);
        },
    ];
    for (n, break_it) in breaks.iter().enumerate() {
        assert_eq!(status_of(&mut front, break_it), BLKIF_RSP_ERROR, "{n}");
        assert_eq!(status_of(&mut front, |_| {}), BLKIF_RSP_OKAY, "{n}");
    }
    let stats = disk.stats().snapshot();
    assert_eq!(stats.refused, (breaks.len() + unsupported.len()) as u64);
    assert_eq!((stats.writes, stats.failed), (breaks.len() as u64, 0));
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), SECTORS * 512);
}

#[test]
fn flush_with_data_writes_the_data() {
    let file = disk_file();
    let world = World::new();
    let _disk = world.serve(world.backend(raw(file.path())).unwrap());
    let mut front = world.front().unwrap();
    for n in 0..2 {
        copy_in(&front.page(3, n).unwrap().memory, 0, &[0x5a; 4096]);
    }
    let status = status_of(&mut front, |r| r.operation = BLKIF_OP_FLUSH_DISKCACHE);
    assert_eq!(status, BLKIF_RSP_OKAY);
    assert_eq!(
        std::fs::read(file.path()).unwrap()[100 * 512..][..8192],
        [0x5a; 8192]
    );
}

#[test]
fn read_only_disk_says_so_and_stays_as_it_is() {
    let file = disk_file();
    let options = RawOptions {
        read_only: true,
        ..RawOptions::default()
    };
    let image = RawImage::open(file.path(), &options).unwrap();
    let world = World::new();
    let _disk = world.serve(world.backend(Box::new(image)).unwrap());
    let mut front = world.front().unwrap();
    assert_eq!(front.backend_key("info").unwrap(), "4");
    assert_eq!(front.backend_key("feature-discard").unwrap(), "0");
    let refused = front.write(0, &[1; 512]);
    assert!(matches!(refused, Err(FrontError::Status(BLKIF_RSP_ERROR))));
    let status = status_of(&mut front, |r| r.operation = BLKIF_OP_FLUSH_DISKCACHE);
    assert_eq!(status, BLKIF_RSP_ERROR);
    front.flush().unwrap();
    assert_eq!(front.read(0, 1 << 20).unwrap(), pattern(0, 1 << 20));
    assert_eq!(std::fs::read(file.path()).unwrap(), pattern(0, 1 << 20));
}

#[test]
fn discard_keeps_the_size_and_touches_nothing_else() {
    let file = disk_file();
    let world = World::new();
    let _disk = world.serve(world.backend(raw(file.path())).unwrap());
    let mut front = world.front().unwrap();
    let discard = |sector: u64, count: u64| {
        move |r: &mut BlkifRequest| {
            r.operation = BLKIF_OP_DISCARD;
            r.nr_segments = 0;
            r.sector_number = sector;
            // `nr_sectors` of the discard layout lies where the first segment is.
            let [low, high] = [count as u32, (count >> 32) as u32];
            r.seg[0].gref = GrantRef(low);
            [r.seg[0].first_sect, r.seg[0].last_sect] = (high as u16).to_le_bytes();
            r.seg[0].pad = (high >> 16) as u16;
        }
    };
    let status = status_of(&mut front, discard(16, 64));
    let mut expected = pattern(0, 1 << 20);
    if status == BLKIF_RSP_OKAY {
        expected[16 * 512..80 * 512].fill(0);
    } else {
        assert_eq!(status, BLKIF_RSP_EOPNOTSUPP, "the file system cannot do it");
    }
    assert_eq!(front.read(0, 1 << 20).unwrap(), expected);
    for (sector, count) in [(SECTORS - 1, 2), (0, u64::MAX), (u64::MAX, 2), (5, 0)] {
        assert_eq!(
            status_of(&mut front, discard(sector, count)),
            BLKIF_RSP_ERROR
        );
    }
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), SECTORS * 512);
}

#[test]
fn host_errors_reach_the_guest_and_only_the_request_they_hit() {
    let image = FaultImage::new(NullImage::new(SECTORS).unwrap()).unwrap();
    let faults = image.faults();
    let world = World::new();
    let disk = world.serve(world.backend(Box::new(image)).unwrap());
    let mut front = world.front().unwrap();
    faults.plan(|io| match (io.op(), io.sector()) {
        (IoOp::Read, 8) => Fault::Fail(ImageError::Host(5)),
        (IoOp::Flush, _) => Fault::Fail(ImageError::Unsupported),
        _ => Fault::Pass,
    });
    let failed = front.read(8, 512);
    assert!(matches!(failed, Err(FrontError::Status(BLKIF_RSP_ERROR))));
    let unsupported = front.flush();
    assert!(matches!(
        unsupported,
        Err(FrontError::Status(BLKIF_RSP_EOPNOTSUPP))
    ));
    front.read(9, 512).unwrap();
    assert_eq!(disk.stats().snapshot().failed, 2);
}

#[test]
fn many_requests_in_flight_all_come_back() {
    let file = disk_file();
    let world = World::new();
    let disk = world.serve(world.backend(raw(file.path())).unwrap());
    let mut front = world.front().unwrap();
    front.random_reads(32, 5000, 7).unwrap();
    front.random_reads(1, 200, 8).unwrap();
    front.sequential_reads(32, 1 << 20, 20).unwrap();
    let stats = disk.stats().snapshot();
    assert_eq!(stats.reads, 5000 + 200 + 20 * 24);
    assert_eq!(stats.sectors_read, 5200 * 8 + 20 * 2048);
    assert!(stats.passes <= stats.reads);
}

#[test]
fn wrong_keys_are_refused_and_a_right_front_end_follows() {
    let world = World::new();
    let image = NullImage::new(SECTORS).unwrap();
    let _disk = world.serve(world.backend(Box::new(image)).unwrap());
    let wrong = [
        [("protocol", "nonsense"), ("x", "")],
        [("ring-page-order", "5"), ("x", "")],
        [("ring-page-order", "32"), ("x", "")],
        [("num-ring-pages", "3"), ("x", "")],
        [("num-ring-pages", "17"), ("x", "")],
        [("ring-page-order", "1"), ("x", "")],
        [("multi-queue-num-queues", "2"), ("x", "")],
        [("ring-ref", "999999"), ("x", "")],
        [("ring-ref", "ring"), ("x", "")],
        [("event-channel", "77777"), ("x", "")],
        [("event-channel", "-1"), ("x", "")],
    ];
    for extra in wrong {
        let front = BlkFront::start(&world).unwrap();
        // The right keys may have been seen already: start again with the wrong ones.
        front.set_state(XenbusState::CLOSED).unwrap();
        front.wait_state(XenbusState::CLOSED).unwrap();
        front.set_state(XenbusState::INITIALISING).unwrap();
        front.wait_state(XenbusState::INIT_WAIT).unwrap();
        front.publish(&extra).unwrap();
        front.wait_state(XenbusState::CLOSING).unwrap();
        front
            .publish(&[("ring-page-order", "0"), ("multi-queue-num-queues", "1")])
            .unwrap();
        front.close().unwrap();
    }
    world.front().unwrap().flush().unwrap();
}

#[test]
fn ring_ref0_names_a_single_page_too() {
    let world = World::new();
    let image = NullImage::new(SECTORS).unwrap();
    let mut backend = world.backend(Box::new(image)).unwrap();
    let mut front = BlkFront::start(&world).unwrap();
    let client = world.client(cantle_blkback::test_utils::FRONT).unwrap();
    let key = |name| format!("{}/{name}", world.id().frontend_path());
    use cantle_xenstore::TxId;
    use cantle_xenstore::prelude::*;
    let gref = client.read(TxId::NONE, &key("ring-ref")).unwrap();
    client.write(TxId::NONE, &key("ring-ref0"), &gref).unwrap();
    client
        .write(TxId::NONE, &key("ring-page-order"), b"0")
        .unwrap();
    client.rm(TxId::NONE, &key("ring-ref")).unwrap();
    while !front.finish().unwrap() {
        backend.process().unwrap();
    }
    assert_eq!(backend.state(), XenbusState::CONNECTED);
}

#[test]
fn polled_backend_needs_no_thread() {
    let file = disk_file();
    let world = World::new();
    let mut backend = world.backend(raw(file.path())).unwrap();
    let mut front = BlkFront::start(&world).unwrap();
    let until_idle = |backend: &mut cantle_blkback::Backend| {
        loop {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                backend.fd(),
                rustix::event::PollFlags::IN,
            )];
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            if rustix::event::poll(&mut fds, Some(&now)).unwrap_or(1) == 0 {
                return;
            }
            while backend.process().unwrap() == Progress::More {}
        }
    };
    until_idle(&mut backend);
    assert!(front.finish().unwrap());
    for slot in 0..32 {
        let request = front.request(
            slot,
            &Transfer {
                operation: BLKIF_OP_READ,
                sector: 8 * slot as u64,
                bytes: 4096,
            },
        );
        front.push(&request).unwrap();
    }
    front.kick().unwrap();
    until_idle(&mut backend);
    for _ in 0..32 {
        assert_eq!(front.response().unwrap().unwrap().status, BLKIF_RSP_OKAY);
    }
    assert!(front.response().unwrap().is_none());
    drop(front);
    let client = world.client(cantle_blkback::test_utils::BACK).unwrap();
    toolstack::destroy_device(&*client, world.id()).unwrap();
    let mut last = Progress::Idle;
    for _ in 0..10 {
        last = backend.process().unwrap();
    }
    assert_eq!(last, Progress::Finished);
}

#[test]
fn a_device_without_directories_is_an_error() {
    let world = World::new();
    let (channels, grants) = world.platform();
    let client = world.client(cantle_blkback::test_utils::BACK).unwrap();
    let image = Box::new(NullImage::new(1).unwrap());
    let made = cantle_blkback::Backend::new(client, channels, grants, image, world.id().clone());
    assert!(matches!(made, Err(BackendError::Store(error)) if error.is_not_found()));
}

#[test]
fn removal_by_the_toolstack_ends_the_thread() {
    let world = World::new();
    let image = NullImage::new(SECTORS).unwrap();
    let disk = world.serve(world.backend(Box::new(image)).unwrap());
    let front = world.front().unwrap();
    let client = world.client(cantle_blkback::test_utils::BACK).unwrap();
    toolstack::remove_device(&*client, world.id()).unwrap();
    front.wait_state(XenbusState::CLOSING).unwrap();
    front.set_state(XenbusState::CLOSED).unwrap();
    front.wait_state(XenbusState::CLOSED).unwrap();
    for _ in 0..2000 {
        if disk.is_finished() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(disk.is_finished());
    disk.stop().1.unwrap();
}
