use std::sync::Arc;

use cantle_image::test_utils::CrashFile;
use proptest::prelude::*;

use super::*;
use crate::test_utils::{EagerDisk, SparseFormat, Writers, contents, moment};

const GRANULE: u64 = 8192;
const SIZE: u64 = 64 * 4096;

fn disk() -> Arc<EagerDisk> {
    let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
    EagerDisk::new(SparseFormat::new(file, SIZE).unwrap())
}

fn snapshot(disk: &Arc<EagerDisk>) -> SnapshotView {
    let store = anonymous_store(&std::env::temp_dir()).unwrap();
    Snapshot::start(disk.clone(), store, Granularity::new(GRANULE).unwrap()).unwrap()
}

fn blocks() -> impl Strategy<Value = Vec<(u64, u8, bool)>> {
    prop::collection::vec((0_u64..64, 1_u8.., prop::bool::weighted(0.1)), 0..40)
}

fn apply(disk: &EagerDisk, acts: &[(u64, u8, bool)]) {
    for (block, byte, discard) in acts {
        if *discard {
            disk.discard(block / 4 * 16384, 16384).unwrap();
        } else {
            disk.write(block * 4096, &[*byte; 4096]).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn each_view_is_the_disk_at_its_instant(before in blocks(), between in blocks(), after in blocks(), first_ends_first: bool) {
        let disk = disk();
        apply(&disk, &before);
        let (then, one) = (disk.contents().unwrap(), snapshot(&disk));
        apply(&disk, &between);
        let (later, two) = (disk.contents().unwrap(), snapshot(&disk));
        apply(&disk, &after);
        prop_assert!(contents(&one).unwrap() == then);
        prop_assert!(contents(&two).unwrap() == later);
        let now = disk.contents().unwrap();
        if first_ends_first {
            drop(one);
            prop_assert!(contents(&two).unwrap() == later);
        } else {
            drop(two);
            prop_assert!(contents(&one).unwrap() == then);
        }
        prop_assert!(disk.contents().unwrap() == now);
    }
}

#[test]
fn the_view_says_where_its_bytes_are_and_refuses_writes() {
    let disk = disk();
    disk.write(0, &[1; 16384]).unwrap();
    let view = snapshot(&disk);
    disk.write(8192, &[2; 4096]).unwrap();
    assert_eq!(view.copied(), 8192);
    assert_eq!(
        view.map(0, SIZE).unwrap(),
        Mapped {
            extent: Extent::Other,
            len: 8192
        }
    );
    let data = Extent::Data {
        file: 0,
        offset: 8192,
        writable: false,
    };
    assert_eq!(
        view.map(8192, SIZE).unwrap(),
        Mapped {
            extent: data,
            len: 8192
        }
    );
    assert!(view.geometry().read_only);
    assert_eq!(
        view.write(0, &[0; 512]).unwrap_err().kind(),
        ErrorKind::ReadOnlyFilesystem
    );
}

#[test]
fn when_the_view_is_gone_the_disk_is_as_before() {
    let disk = disk();
    let before = disk.format();
    drop(snapshot(&disk));
    assert!(Arc::ptr_eq(&before, &disk.format()));
}

#[test]
fn a_full_store_breaks_the_snapshot_and_not_the_disk() {
    let disk = disk();
    disk.write(0, &[1; 65536]).unwrap();
    let store = CrashFile::new(&[]).unwrap();
    store.set_budget(Some(1));
    let granularity = Granularity::new(GRANULE).unwrap();
    let view = Snapshot::start(disk.clone(), Box::new(Arc::clone(&store)), granularity).unwrap();
    disk.write(0, &[2; 4096]).unwrap();
    let mut byte = [0; 512];
    view.read(16384, &mut byte).unwrap();
    disk.write(8192, &[2; 4096]).unwrap();
    assert!(view.is_broken());
    view.read(16384, &mut byte).unwrap_err();
    // What was copied is still what was there.
    view.read(0, &mut byte).unwrap();
    assert_eq!(byte, [1; 512]);
    disk.write(16384, &[3; 4096]).unwrap();
    disk.read(16384, &mut byte).unwrap();
    assert_eq!(byte, [3; 512]);
}

#[test]
fn a_view_under_writers_is_of_one_moment() {
    for _ in 0..20 {
        let disk = disk();
        let writers = Writers::start(&disk, 3, 20);
        std::thread::sleep(std::time::Duration::from_millis(3));
        let view = snapshot(&disk);
        let first = contents(&view).unwrap();
        assert!(writers.moment(&first).is_some(), "the view is of no moment");
        for _ in 0..5 {
            assert!(contents(&view).unwrap() == first, "the view changes");
        }
        let last = writers.stop();
        assert!(contents(&view).unwrap() == first, "the view changes");
        drop(view);
        assert_eq!(moment(&disk.contents().unwrap(), 3, 20), Some(last));
    }
}

/// A format that takes its time to read.
struct Slow(
    Arc<dyn Format>,
    std::sync::atomic::AtomicBool,
    std::sync::mpsc::Sender<()>,
);

impl Format for Slow {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn files(&self) -> Vec<Arc<File>> {
        self.0.files()
    }
    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        self.0.map(offset, len)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        if !self.1.swap(true, std::sync::atomic::Ordering::SeqCst) {
            // The writer may come now.
            let _ = self.2.send(());
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        self.0.read(offset, into)
    }
    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.0.write(offset, from)
    }
    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.0.discard(offset, len)
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
}

#[test]
fn a_write_waits_for_a_view_that_reads_the_same_granule() {
    let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let inner = SparseFormat::new(file, SIZE).unwrap();
    let disk = EagerDisk::new(Arc::new(Slow(inner, false.into(), tell)));
    disk.write(0, &[1; 4096]).unwrap();
    let view = snapshot(&disk);
    let writer = std::thread::spawn(move || {
        told.recv().unwrap();
        disk.write(0, &[2; 4096]).unwrap();
        disk
    });
    let mut bytes = [0; 4096];
    view.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 4096]);
    view.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 4096]);
    writer.join().unwrap().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [2; 4096]);
}
