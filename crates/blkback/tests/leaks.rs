//! Several hundred connections leave no descriptor, thread or mapping behind. Alone in its process, which is what is counted.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

use std::sync::Arc;

use cantle_blkback::image::{Caching, RawDisk, RawOptions};
use cantle_blkback::test_utils::{FrontOptions, Random, RingSpelling, World, copy_in, wait_until};
use cantle_blkback::{BackendOptions, Protocol};
use cantle_xenstore::xenbus::XenbusState;

const SECTORS: u64 = 2048;

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Of guest's pages and the like: lines of the process's memory map.
fn maps() -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .count()
}

#[test]
fn connections_in_a_loop_leave_nothing_behind() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SECTORS * 512).unwrap();
    let raw = RawOptions {
        caching: Caching::DirectIfPossible,
        ..RawOptions::default()
    };
    let disk = Arc::new(RawDisk::open(file.path(), &raw).unwrap());
    let world = World::with_memory(8192);
    let options = BackendOptions {
        max_queues: 4,
        ..BackendOptions::default()
    };
    let served = world.serve(world.backend_of(disk.clone(), options).unwrap());
    let mut random = Random::new(99);
    let mut connect = |round: u64| {
        let queues = if round < 4 {
            4
        } else {
            1 + random.below(4) as u16
        };
        let mut front = world
            .front_with(FrontOptions {
                protocol: [Protocol::Native, Protocol::X86_32][random.below(2) as usize],
                ring_page_order: random.below(3) as u8,
                spelling: RingSpelling::Order,
                queues,
                persistent: random.below(2) == 0,
                segments: [11, 64][random.below(2) as usize],
            })
            .unwrap();
        for queue in front.queues_mut() {
            queue.random_reads(8, 16, round + 1).unwrap();
            queue.write(0, &[1; 30 * 4096]).unwrap();
        }
        match random.below(4) {
            // It breaks one of its rings.
            0 => {
                let queue = front.queue(random.below(queues.into()) as usize).unwrap();
                copy_in(&queue.ring_page().memory, 0, &9999_u32.to_ne_bytes());
                queue.notify().unwrap();
                front.wait_state(XenbusState::CLOSING).unwrap();
            }
            1 => served.control().resized(),
            2 => drop(served.control().insert(disk.clone())),
            _ => {}
        }
        front.close().unwrap();
        assert_eq!(world.mapped(), 0, "round {round}");
        assert_eq!(served.stats().snapshot().connects, round + 1);
    };
    // The first ones with all queues, whose images are kept for those to come.
    (0..10).for_each(&mut connect);
    let (fds, threads, before) = (count("/proc/self/fd"), count("/proc/self/task"), maps());
    (10..400).for_each(&mut connect);
    // A medium that has just been put in has no images to spare yet: never more than at the beginning.
    wait_until(|| count("/proc/self/fd") <= fds && count("/proc/self/task") <= threads);
    assert!(maps() <= before + 16, "{} of {before}", maps());
    drop(served);
    wait_until(|| count("/proc/self/task") < threads);
    assert!(count("/proc/self/fd") < fds);
}
