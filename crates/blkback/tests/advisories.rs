//! Known wounds of block backends, each a test by its advisory's name; and what else a hostile front end may try.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cantle_abi::io::blkif::{
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY, BlkifRequest,
};
use cantle_abi::ring::RING_HEADER_SIZE;
use cantle_abi::{GrantRef, PAGE_SIZE, SharedMemory};
use cantle_blkback::StatsSnapshot;
use cantle_blkback::image::{BlockImage, NullImage, RawImage, RawOptions};
use cantle_blkback::test_utils::{
    BlkFront, Fault, FaultImage, FrontError, LentPage, Random, Transfer, World, copy_in, copy_out,
};
use cantle_xenstore::xenbus::XenbusState;
use proptest::prelude::*;
use tempfile::NamedTempFile;

const SECTORS: u64 = 4096;
const PATIENCE: Duration = Duration::from_millis(300);

fn null() -> Box<NullImage> {
    Box::new(NullImage::new(SECTORS).unwrap())
}

fn raw_file() -> (NamedTempFile, Box<RawImage>) {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(512 * SECTORS).unwrap();
    let image = RawImage::open(file.path(), &RawOptions::default()).unwrap();
    (file, Box::new(image))
}

fn read(sector: u64, bytes: usize) -> Transfer {
    Transfer {
        operation: BLKIF_OP_READ,
        sector,
        bytes,
    }
}

fn write(sector: u64, bytes: usize) -> Transfer {
    Transfer {
        operation: BLKIF_OP_WRITE,
        sector,
        bytes,
    }
}

/// Writes random words over a page until told to stop.
fn scribble(page: &LentPage, from: usize, stop: &AtomicBool, seed: u64) {
    let mut random = Random::new(seed);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..64 {
            let at = from + random.below((PAGE_SIZE - from) as u64 / 4) as usize * 4;
            // Small numbers look most like real fields.
            let word = match random.below(3) {
                0 => random.below(16),
                1 => random.below(0x1_0000),
                _ => random.below(u64::from(u32::MAX)),
            };
            copy_in(&page.memory, at, &(word as u32).to_ne_bytes());
        }
    }
}

/// A request changes in the ring while the backend reads it. It is one copy that is checked and used: whatever reaches the
/// image lies within the disk, and each request is answered once.
#[test]
fn xsa_155_double_fetch() {
    let (file, image) = raw_file();
    while_scribbling_over_slots(image);
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 512 * SECTORS);
    // This image fails nothing that is within the disk: a failure is a request that changed after it was checked.
    assert_eq!(while_scribbling_over_slots(null()).failed, 0);
}

fn while_scribbling_over_slots(image: Box<dyn BlockImage>) -> StatsSnapshot {
    let world = World::new();
    let disk = world.serve(world.backend(image).unwrap());
    let mut front = world.front().unwrap();
    let stop = AtomicBool::new(false);
    let page = front.ring_page().clone();
    let mut answered = 0;
    std::thread::scope(|scope| {
        // The slots, not the header: the ring itself stays in order, only its contents lie.
        scope.spawn(|| scribble(&page, RING_HEADER_SIZE, &stop, 155));
        let end = Instant::now() + Duration::from_millis(400);
        while Instant::now() < end {
            for slot in 0..16 {
                let request = front.request(slot, &write(slot as u64 * 88, 45056));
                front.push(&request).unwrap();
            }
            front.kick().unwrap();
            for _ in 0..16 {
                // Whatever it says: the response may have been changed as well.
                front.wait_response().unwrap();
                answered += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let stats = disk.stats().snapshot();
    let done = stats.reads + stats.writes + stats.flushes + stats.discards;
    let total = done + stats.refused + stats.failed;
    assert_eq!(total, answered, "each request was counted once: {stats:?}");
    drop(front);
    disk.stop().1.unwrap();
    stats
}

/// Every byte of a response is written, padding included: no memory of the backend goes out with it.
#[test]
fn xsa_216_response_padding() {
    let world = World::new();
    let _disk = world.serve(world.backend(null()).unwrap());
    let mut front = world.front().unwrap();
    // Whatever was there before must be gone from the 16 bytes of each response.
    copy_in(
        &front.ring_page().memory,
        RING_HEADER_SIZE,
        &[0xee; 112 * 32],
    );
    for slot in 0..32_usize {
        let mut request = front.request(slot, &read(0, 4096));
        request.id = 0;
        request.operation = if slot % 2 == 0 { BLKIF_OP_READ } else { 99 };
        request.pad = 0xeeee_eeee;
        front.push(&request).unwrap();
    }
    front.kick().unwrap();
    for _ in 0..32 {
        front.wait_response().unwrap();
    }
    // Refused requests are answered before those that the image does, so the order is not the requests'.
    let mut counts = [0; 2];
    for slot in 0..32 {
        let mut response = [0xff; 16];
        let memory = &front.ring_page().memory;
        copy_out(memory, RING_HEADER_SIZE + slot * 112, &mut response);
        let kinds = [(BLKIF_OP_READ, 0_i16), (99, -2)].map(|(operation, status)| {
            let mut expected = [0; 16];
            expected[8] = operation;
            expected[10..12].copy_from_slice(&status.to_ne_bytes());
            expected
        });
        let kind = kinds.iter().position(|expected| *expected == response);
        counts[kind.unwrap_or_else(|| panic!("slot {slot}: {response:?}"))] += 1;
    }
    assert_eq!(counts, [16, 16]);
}

/// One page of several does not map: the request fails, whichever it is, and no page of it is touched.
#[test]
fn xsa_365_grant_error_kept() {
    let (file, image) = raw_file();
    std::fs::write(file.path(), vec![0x77; 512 * SECTORS as usize]).unwrap();
    let world = World::new();
    let disk = world.serve(world.backend(image).unwrap());
    let mut front = world.front().unwrap();
    for bad in 0..11 {
        let mut request = front.request(bad, &read(0, 45056));
        request.seg[bad].gref = GrantRef(30_000);
        assert_eq!(
            front.ask(&request).unwrap().status,
            BLKIF_RSP_ERROR,
            "segment {bad}"
        );
        for n in 0..11 {
            let mut page = [1; PAGE_SIZE];
            copy_out(&front.page(bad, n).unwrap().memory, 0, &mut page);
            assert_eq!(page, [0; PAGE_SIZE], "page {n} of {bad}");
        }
    }
    // A page that may only be read is no place to read a disk into.
    let frame = world.guest().alloc_frame();
    let mut request = front.request(0, &read(0, 8192));
    request.seg[1].gref = world
        .guest()
        .grant(cantle_blkback::test_utils::BACK, frame, true);
    assert_eq!(front.ask(&request).unwrap().status, BLKIF_RSP_ERROR);
    request.operation = BLKIF_OP_WRITE;
    assert_eq!(
        front.ask(&request).unwrap().status,
        BLKIF_RSP_OKAY,
        "but to write from"
    );
    assert_eq!(disk.stats().snapshot().refused, 12);
    // Whatever was mapped on the way was let go.
    let table = world.guest().table().stats();
    assert_eq!(
        table.maps,
        table.unmaps + 1,
        "the ring's page is left: {table:?}"
    );
}

/// A flood of state changes is one more look at the state, not work for each; the disk goes on afterwards.
#[test]
fn xsa_349_state_flood() {
    let world = World::new();
    let disk = world.serve(world.backend(null()).unwrap());
    let mut front = world.front().unwrap();
    for _ in 0..20_000 {
        front.set_state(XenbusState::CONNECTED).unwrap();
    }
    front.read(0, 4096).unwrap();
    assert!(!disk.is_finished());
    let stats = disk.stats().snapshot();
    assert_eq!((stats.connects, stats.reads), (1, 1));
}

/// Connect and disconnect in quick succession, in and out of order: no stale ring, no leak, and the last one works.
#[test]
fn xsa_350_connect_toggle() {
    let world = World::new();
    let disk = world.serve(world.backend(null()).unwrap());
    let mut random = Random::new(350);
    for _ in 0..60 {
        let front = BlkFront::start(&world).unwrap();
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
                let _ = front.notify();
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
    let mut front = world.front().unwrap();
    front.read(0, 1 << 16).unwrap();
    drop(front);
    drop(disk);
}

/// Counters are read all the while that rings come and go, and after everything is gone.
#[test]
fn xsa_528_stats_during_teardown() {
    let world = World::new();
    let disk = world.serve(world.backend(null()).unwrap());
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
        let mut front = world.front().unwrap();
        front.random_reads(8, 50, 528).unwrap();
        front.close().unwrap();
    }
    disk.stop().1.unwrap();
    assert_eq!(stats.snapshot().reads, 1500);
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

/// An index that jumps is a broken ring: it is disconnected, its memory is let go, and a well-behaved front end connects next.
#[test]
fn broken_ring_is_disconnected() {
    for jump in [33_u32, 1000, u32::MAX, 0x8000_0000] {
        let world = World::new();
        let disk = world.serve(world.backend(null()).unwrap());
        let front = world.front().unwrap();
        copy_in(&front.ring_page().memory, 0, &jump.to_ne_bytes());
        front.notify().unwrap();
        front.wait_state(XenbusState::CLOSING).unwrap();
        let table = world.guest().table().stats();
        assert_eq!(table.maps, table.unmaps, "{jump}");
        front.close().unwrap();
        let mut front = world.front().unwrap();
        front.read(0, 4096).unwrap();
        assert_eq!(disk.stats().snapshot().broken, 1);
    }
}

/// A front end that scribbles over everything, indices included, for a while; then a good one.
#[test]
fn scribbled_ring_harms_nobody() {
    let (file, image) = raw_file();
    let world = World::new();
    let disk = world.serve(world.backend(image).unwrap());
    let seed = AtomicU32::new(1);
    let end = Instant::now() + Duration::from_millis(800);
    while Instant::now() < end {
        let mut front = world.front().unwrap();
        let stop = AtomicBool::new(false);
        let page = front.ring_page().clone();
        std::thread::scope(|scope| {
            let seed = u64::from(seed.fetch_add(1, Ordering::Relaxed));
            let stop = &stop;
            scope.spawn(move || scribble(&page, 0, stop, seed));
            for n in 0..50 {
                let request = front.request(n % 32, &write(n as u64, 8192));
                // A full ring is no matter.
                let _ = front.push(&request);
                front.kick().unwrap();
                front.notify().unwrap();
                while let Ok(Some(_)) = front.response() {}
            }
            let _ = front.wait_response_for(Duration::from_millis(5));
            stop.store(true, Ordering::Relaxed);
        });
        front.close().unwrap();
    }
    assert!(disk.stats().snapshot().broken > 0);
    let mut front = world.front().unwrap();
    front.write(1, &[3; 1024]).unwrap();
    assert_eq!(front.read(1, 1024).unwrap(), [3; 1024]);
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 512 * SECTORS);
}

/// A storm of notifications without requests costs the guest, and the backend serves on.
#[test]
fn storm_of_notifications_changes_nothing() {
    let world = World::new();
    let disk = world.serve(world.backend(null()).unwrap());
    let mut front = world.front().unwrap();
    for _ in 0..100_000 {
        front.notify().unwrap();
    }
    front.read(0, 4096).unwrap();
    let stats = disk.stats().snapshot();
    assert_eq!((stats.passes, stats.reads), (1, 1));
}

/// The same page in all segments, and in all requests at once, is the guest's own business.
#[test]
fn one_page_many_times_is_allowed() {
    let (_file, image) = raw_file();
    let world = World::new();
    let _disk = world.serve(world.backend(image).unwrap());
    let mut front = world.front().unwrap();
    let gref = front.page(0, 0).unwrap().gref;
    for slot in 0..32 {
        let mut request = front.request(slot, &read(0, 45056));
        for segment in &mut request.seg {
            segment.gref = gref;
        }
        front.push(&request).unwrap();
    }
    front.kick().unwrap();
    for _ in 0..32 {
        assert_eq!(front.wait_response().unwrap().status, BLKIF_RSP_OKAY);
    }
}

/// What the guest writes never makes the image anything but raw.
#[test]
fn raw_image_stays_raw_whatever_its_first_bytes_say() {
    let (file, image) = raw_file();
    let world = World::new();
    let disk = world.serve(world.backend(image).unwrap());
    let mut front = world.front().unwrap();
    let mut header = [0; 512];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    front.write(0, &header).unwrap();
    front.close().unwrap();
    drop(disk);
    let image = RawImage::open(file.path(), &RawOptions::default()).unwrap();
    let disk = world.serve(world.backend(Box::new(image)).unwrap());
    let mut front = world.front().unwrap();
    assert_eq!(front.sectors(), SECTORS);
    assert_eq!(front.read(0, 512).unwrap(), header);
    drop(front);
    drop(disk);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes in any number of slots: each request is answered, and a good one afterwards works.
    #[test]
    fn any_requests_are_answered(slots in prop::collection::vec(any::<[u8; 8]>(), 1..32), seed in any::<u64>()) {
        let world = World::new();
        let mut backend = world.backend(null()).unwrap();
        let mut front = BlkFront::start(&world).unwrap();
        while !front.finish().unwrap() {
            backend.process().unwrap();
        }
        let mut random = Random::new(seed);
        for bytes in &slots {
            let mut request = front.request(random.below(32) as usize, &read(random.below(SECTORS), 4096 * random.below(11) as usize));
            request.operation = bytes[0] % 9;
            if bytes[1] < 64 { request.nr_segments = bytes[2]; }
            if bytes[3] < 64 { request.seg[usize::from(bytes[4] % 11)].last_sect = bytes[5]; }
            if bytes[6] < 64 { request.seg[usize::from(bytes[4] % 11)].gref = GrantRef(random.below(1000) as u32); }
            if bytes[7] < 64 { request.sector_number = u64::from_ne_bytes(*bytes); }
            front.push(&request).unwrap();
        }
        front.kick().unwrap();
        for _ in 0..slots.len() * 2 + 4 {
            backend.process().unwrap();
        }
        for _ in &slots {
            prop_assert!(front.response().unwrap().is_some());
        }
        prop_assert!(front.response().unwrap().is_none());
        let good: BlkifRequest = front.request(0, &read(0, 512));
        front.push(&good).unwrap();
        front.kick().unwrap();
        backend.process().unwrap();
        prop_assert_eq!(front.response().unwrap().map(|r| r.status), Some(BLKIF_RSP_OKAY));
        prop_assert!(front.ring_page().memory.len() == PAGE_SIZE);
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
