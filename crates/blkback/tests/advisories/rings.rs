//! Rings and notifications that break the rules.

use super::*;
use cantle_blkback::image::{RawImage, RawOptions};
use cantle_xenstore::xenbus::XenbusState;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

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

/// An event storm on every queue at once (XSA-332), while others are served: it costs passes over an empty ring, and no answer is late.
#[test]
fn xsa_332_event_storm() {
    let (world, disk) = served(null_disk());
    let mut front = world.front_with(four()).unwrap();
    let (quiet, quiet_disk) = served(null_disk());
    let mut neighbour = quiet.front_with(four()).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for queue in front.queues() {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        queue.notify().unwrap();
                    }
                    // A guest has no more CPUs than it has.
                    std::thread::yield_now();
                }
            });
        }
        for queue in neighbour.queues_mut() {
            queue.random_reads(8, 500, 332).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    for queue in front.queues_mut() {
        queue.read(0, 4096).unwrap();
    }
    let stats = disk.stats().snapshot();
    assert_eq!(
        (stats.passes, stats.reads),
        (4, 4),
        "nothing but the four reads"
    );
    assert_eq!(quiet_disk.stats().snapshot().reads, 2000);
}

/// The other way round (XSA-391): the back end notifies no more often than it has answers, whatever the front end asks for.
#[test]
fn xsa_391_event_storm_to_the_guest() {
    for protocol in LAYOUTS {
        let (world, disk) = served(null_disk());
        let mut front = world
            .front_with(FrontOptions {
                protocol,
                ..FrontOptions::default()
            })
            .unwrap();
        let page = front.ring_page().clone();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // `rsp_event` anywhere at all.
            scope.spawn(|| {
                let mut random = Random::new(391);
                while !stop.load(Ordering::Relaxed) {
                    let anywhere = random.below(1 << 32) as u32;
                    copy_in(&page.memory, 12, &anywhere.to_ne_bytes());
                }
            });
            for _ in 0..2000 {
                let request = front.request(0, &read(0, 4096));
                front.push(&request).unwrap();
                front.kick().unwrap();
                while front.response().unwrap().is_none() {
                    std::thread::yield_now();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let stats = disk.stats().snapshot();
        assert_eq!(stats.reads, 2000);
        assert!(stats.notifications <= 2000, "{stats:?}");
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
