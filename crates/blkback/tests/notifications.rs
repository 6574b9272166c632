//! Notifications: none that is not needed, and none that is missing.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE};
use cantle_blkback::BackendOptions;
use cantle_blkback::image::{NullDisk, RawDisk, RawOptions};
use cantle_blkback::test_utils::{FrontOptions, FrontQueue, Random, World};

const SECTORS: u64 = 4096;

fn options(spin: Duration) -> BackendOptions {
    BackendOptions {
        max_queues: 2,
        spin,
        ..BackendOptions::default()
    }
}

fn two() -> FrontOptions {
    FrontOptions {
        queues: 2,
        ..FrontOptions::default()
    }
}

/// A back end that sleeps is to be woken for each request; one that looks is not, on any queue.
#[test]
fn who_looks_is_not_notified() {
    for (spin, expected) in [(0, 80..=100), (500, 0..=10)] {
        let world = World::new();
        let disk = Arc::new(NullDisk { sectors: SECTORS });
        let spin = Duration::from_millis(spin);
        let disk = world.serve(world.backend_of(disk, options(spin)).unwrap());
        let mut front = world.front_with(two()).unwrap();
        disk.come_to_rest(&front).unwrap();
        for queue in front.queues_mut() {
            let before = queue.notified();
            for n in 0..100 {
                queue.read(n, 512).unwrap();
                // Time enough for a back end to fall asleep, on a host that has other things to do as well.
                std::thread::sleep(Duration::from_millis(2));
            }
            let notified = queue.notified() - before;
            assert!(expected.contains(&notified), "{spin:?}: {notified}");
        }
        assert_eq!(disk.stats().snapshot().reads, 200);
    }
}

/// One notification for many answers, and for many requests.
#[test]
fn many_at_once_are_one_notification() {
    let world = World::new();
    let disk = Arc::new(NullDisk { sectors: SECTORS });
    let disk = world.serve(world.backend_of(disk, options(Duration::ZERO)).unwrap());
    let mut front = world.front().unwrap();
    front.random_reads(32, 32 * 200, 9).unwrap();
    let stats = disk.stats().snapshot();
    assert!(front.notified() <= 32 * 200 / 4, "{}", front.notified());
    assert!(stats.notifications <= 32 * 200 / 4, "{stats:?}");
}

/// Bursts with pauses of all lengths between them, so that every order of looking, arming and sleeping on both sides comes up. A lost wake-up
/// is silence, which the front end reports.
#[test]
fn no_wakeup_is_lost() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SECTORS * 512).unwrap();
    for spin in [0, 50, 1000] {
        let spin = Duration::from_micros(spin);
        for on_file in [false, true] {
            let world = World::new();
            let backend = if on_file {
                let disk = RawDisk::open(file.path(), &RawOptions::default()).unwrap();
                world.backend_of(Arc::new(disk), options(spin))
            } else {
                world.backend_of(Arc::new(NullDisk { sectors: SECTORS }), options(spin))
            };
            let disk = world.serve(backend.unwrap());
            let mut front = world.front_with(two()).unwrap();
            std::thread::scope(|scope| {
                for (number, queue) in front.queues_mut().enumerate() {
                    scope.spawn(move || bursts(queue, number as u64 + 1));
                }
            });
            let stats = disk.stats().snapshot();
            assert_eq!((stats.failed, stats.refused), (0, 0));
        }
    }
}

fn bursts(queue: &mut FrontQueue, seed: u64) {
    let mut random = Random::new(seed);
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        let operation = if random.below(2) == 0 {
            BLKIF_OP_READ
        } else {
            BLKIF_OP_WRITE
        };
        let depth = 1 + random.below(32) as usize;
        let count = 1 + random.below(3 * depth as u64);
        let bytes = 4096 * (1 + random.below(11) as usize);
        queue.random(operation, bytes, depth, count, seed).unwrap();
        match random.below(4) {
            0 => std::thread::sleep(Duration::from_micros(random.below(200))),
            1 => std::thread::yield_now(),
            2 => (0..random.below(3000)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
}
