//! The layers on a disk with queues: what goes straight to the file and what comes by the layer, together.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use cantle_image::format::read_mapped;
use cantle_image::test_utils::Driven;
use cantle_image::{Disk, Format, FormatDisk, FormatOptions};
use cantle_layers::test_utils::{SparseFormat, moment};
use cantle_layers::{
    Cache, CacheOptions, ChangedBlocks, Granularity, Mirror, MirrorOptions, MirrorState, Snapshot,
    anonymous_store,
};

const BLOCKS: u64 = 60;
const WRITERS: usize = 2;
const SIZE: u64 = 4 << 20;

fn file() -> Arc<File> {
    Arc::new(tempfile::tempfile().unwrap())
}

fn format() -> Arc<dyn Format> {
    SparseFormat::new(file(), SIZE).unwrap()
}

fn granularity() -> Granularity {
    Granularity::new(8192).unwrap()
}

fn contents(format: &dyn Format) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(format.geometry().bytes()).unwrap()];
    read_mapped(format, 0, &mut bytes).unwrap();
    bytes
}

/// As `Writers` of the test utilities, each with a queue of its own.
struct Guests(Vec<JoinHandle<u64>>, Arc<AtomicBool>);

impl Guests {
    fn start(disk: &FormatDisk) -> Self {
        let go = Arc::new(AtomicBool::new(true));
        let threads = (0..WRITERS as u64).map(|writer| {
            let (mut queue, go) = (Driven::new(disk).unwrap(), Arc::clone(&go));
            std::thread::spawn(move || {
                let mut last = 0;
                while go.load(Ordering::Relaxed) {
                    let sector = (writer * BLOCKS + last % BLOCKS) * 8;
                    last += 1;
                    queue
                        .write(sector, &u64::to_le_bytes(last).repeat(512))
                        .unwrap();
                }
                last
            })
        });
        Self(threads.collect(), go)
    }

    fn stop(self) -> Vec<u64> {
        self.1.store(false, Ordering::Relaxed);
        self.0
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    }
}

#[test]
fn a_disk_moves_twice_under_its_guests() {
    let disk = FormatDisk::new(format(), FormatOptions::default()).unwrap();
    let guests = Guests::start(&disk);
    let mut target = format();
    for with_state in [false, true] {
        target = format();
        let state =
            with_state.then(|| MirrorState::create(Box::new(file()), SIZE, granularity()).unwrap());
        let options = MirrorOptions {
            granularity: granularity(),
            rest: 65536,
            rounds: 5,
            ..MirrorOptions::default()
        };
        let mut mirror =
            Mirror::start(Arc::new(disk.clone()), Arc::clone(&target), state, options).unwrap();
        mirror.wait().unwrap();
        assert!(Arc::ptr_eq(&disk.format(), &target));
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    let last = guests.stop();
    assert_eq!(moment(&contents(&*target), WRITERS, BLOCKS), Some(last));
}

#[test]
fn a_snapshot_is_of_one_moment_and_can_be_served_itself() {
    let disk = FormatDisk::new(format(), FormatOptions::default()).unwrap();
    let guests = Guests::start(&disk);
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let store = anonymous_store(&std::env::temp_dir()).unwrap();
        let view = Arc::new(Snapshot::start(Arc::new(disk.clone()), store, granularity()).unwrap());
        let first = contents(&*view);
        assert!(
            moment(&first, WRITERS, BLOCKS).is_some(),
            "the view is of no moment"
        );
        let served = FormatDisk::new(view, FormatOptions::default()).unwrap();
        let mut queue = Driven::new(&served).unwrap();
        for _ in 0..3 {
            assert!(
                queue.read(0, 1 << 20).unwrap() == first[..1 << 20],
                "the view changes"
            );
        }
    }
    let last = guests.stop();
    assert_eq!(
        moment(&contents(&*disk.format()), WRITERS, BLOCKS),
        Some(last)
    );
}

#[test]
fn what_guests_write_after_a_checkpoint_has_changed() {
    let changed = ChangedBlocks::create(format(), Box::new(file()), granularity()).unwrap();
    let changed = Arc::new(changed);
    let disk = FormatDisk::new(changed.clone(), FormatOptions::default()).unwrap();
    let guests = Guests::start(&disk);
    let mut since = Vec::new();
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(3));
        let id = changed.checkpoint(&disk).unwrap();
        let store = anonymous_store(&std::env::temp_dir()).unwrap();
        let view = Snapshot::start(Arc::new(disk.clone()), store, granularity()).unwrap();
        since.push((id, contents(&view)));
    }
    guests.stop();
    let now = contents(&*disk.format());
    for (id, then) in since {
        let changes: Vec<_> = changed.changed_since(id).unwrap().extents().collect();
        for (at, (one, other)) in now.chunks(4096).zip(then.chunks(4096)).enumerate() {
            let at = at as u64 * 4096;
            assert!(
                one == other || changes.iter().any(|extent| extent.contains(&at)),
                "{at} has changed"
            );
        }
    }
    drop(disk);
    assert_eq!(Arc::strong_count(&changed), 1);
}

#[test]
fn a_cached_image_is_read_straight_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let golden = folder.path().join("golden");
    let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    std::fs::write(&golden, &bytes).unwrap();
    let options = CacheOptions {
        keep_free: 0,
        ..CacheOptions::new(folder.path().join("caches"))
    };
    let inner =
        cantle_image::RawFormat::open(&golden, &cantle_image::RawOptions::default()).unwrap();
    let cache = Arc::new(Cache::open(Arc::new(inner), &golden, &options).unwrap());
    let disk = FormatDisk::new(cache.clone(), FormatOptions::default()).unwrap();
    assert!(disk.geometry().read_only);
    let mut queue = Driven::new(&disk).unwrap();
    for _ in 0..3 {
        assert!(queue.read(0, 1 << 20).unwrap() == bytes);
    }
    let stats = cache.stats();
    assert_eq!(
        (stats.fills, stats.hits),
        (16, 0),
        "the second time nothing comes by"
    );
}
