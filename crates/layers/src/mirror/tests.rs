use std::fs::File;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cantle_image::test_utils::CrashFile;
use cantle_image::{Geometry, Mapped, RawFormat, Storage};
use proptest::prelude::*;

use super::control::Control;
use super::*;
use crate::test_utils::{EagerDisk, SparseFormat, Writers, contents, moment};

const SIZE: u64 = 256 * 4096;

fn sparse(bytes: u64) -> Arc<SparseFormat<Arc<File>>> {
    SparseFormat::new(Arc::new(tempfile::tempfile().unwrap()), bytes).unwrap()
}

fn options() -> MirrorOptions {
    MirrorOptions {
        granularity: Granularity::new(8192).unwrap(),
        rest: 65536,
        ..MirrorOptions::default()
    }
}

fn state(bytes: u64) -> MirrorState {
    let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
    MirrorState::create(Box::new(file), bytes, Granularity::new(16384).unwrap()).unwrap()
}

/// Ends the wait for something after some seconds.
fn until(what: impl Fn() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it takes too long"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_disk_moves_while_it_is_written() {
    for (round, with_state) in [false, true, false, true, false, true]
        .into_iter()
        .enumerate()
    {
        let disk = EagerDisk::new(sparse(SIZE));
        let writers = Writers::start(&disk, 3, 60);
        let target: Arc<dyn Format> = sparse(SIZE);
        let ask = round % 3 == 2;
        let state = with_state.then(|| state(SIZE));
        let options = MirrorOptions {
            ask,
            rounds: 5,
            ..options()
        };
        let mut mirror = Mirror::start(disk.clone(), Arc::clone(&target), state, options).unwrap();
        if ask {
            until(|| mirror.progress().round > 3);
            assert!(!mirror.is_finished());
            mirror.switch();
        }
        mirror.wait().unwrap();
        assert!(Arc::ptr_eq(&disk.format(), &target));
        assert!(mirror.cancel().unwrap(), "it is over");
        // What is written now is written to the target, and nothing of what was written before is missing.
        std::thread::sleep(Duration::from_millis(5));
        let last = writers.stop();
        assert_eq!(moment(&contents(&*target).unwrap(), 3, 60), Some(last));
    }
}

/// A disk that keeps what it had when something was put in its place.
struct Watched(Arc<EagerDisk>, Mutex<Vec<(Vec<u8>, Vec<u8>)>>);

impl LiveDisk for Watched {
    fn forget(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.0.forget(offset, len)
    }
    fn exclusive(
        &self,
        act: &mut dyn FnMut(&mut Arc<dyn Format>) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.0.exclusive(&mut |slot| {
            let before = contents(&**slot)?;
            act(slot)?;
            self.1.lock().unwrap().push((before, contents(&**slot)?));
            Ok(())
        })
    }
}

#[test]
fn the_target_is_the_source_at_the_switch() {
    for _ in 0..10 {
        let disk = EagerDisk::new(sparse(SIZE));
        let writers = Writers::start(&disk, 3, 60);
        let watched = Arc::new(Watched(Arc::clone(&disk), Mutex::default()));
        let target: Arc<dyn Format> = sparse(SIZE);
        let mut mirror = Mirror::start(watched.clone(), target, None, options()).unwrap();
        mirror.wait().unwrap();
        writers.stop();
        for (before, after) in &*watched.1.lock().unwrap() {
            assert!(before == after);
        }
    }
}

#[test]
fn zeroes_take_no_room_in_the_target() {
    let source = sparse(SIZE);
    source.write(0, &vec![0; 65536]).unwrap();
    source.write(131_072, &[5; 4096]).unwrap();
    let disk = EagerDisk::new(source);
    let target = sparse(SIZE);
    // What is there already, and is zero in the source, becomes so.
    target.write(262_144, &[9; 4096]).unwrap();
    Mirror::start(disk.clone(), target.clone(), None, options())
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(
        target.allocated(),
        2 * 16384,
        "what is not zero, and what was there"
    );
    assert!(
        disk.contents()
            .unwrap()
            .iter()
            .all(|byte| *byte == 0 || *byte == 5)
    );
}

#[test]
fn a_smaller_target_grows_and_a_larger_one_is_refused() {
    let disk = EagerDisk::new(sparse(SIZE));
    let target = sparse(SIZE / 2);
    Mirror::start(disk, target.clone(), None, options())
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(target.geometry().bytes(), SIZE);
    let disk = EagerDisk::new(sparse(SIZE));
    let before = disk.format();
    let refused = Mirror::start(disk.clone(), sparse(SIZE * 2), None, options()).unwrap_err();
    assert!(matches!(
        refused,
        MirrorError::Size {
            source_bytes: SIZE,
            ..
        }
    ));
    assert!(Arc::ptr_eq(&before, &disk.format()));
}

#[test]
fn a_source_that_grows_meanwhile_moves_whole() {
    let disk = EagerDisk::new(sparse(SIZE));
    let target: Arc<dyn Format> = sparse(SIZE);
    let ask = MirrorOptions {
        ask: true,
        ..options()
    };
    let mut mirror = Mirror::start(disk.clone(), Arc::clone(&target), None, ask).unwrap();
    until(|| mirror.progress().ready);
    disk.exclusive(&mut |format| format.grow(SIZE * 2 / 512))
        .unwrap();
    disk.write(SIZE + 4096, &[3; 4096]).unwrap();
    mirror.switch();
    mirror.wait().unwrap();
    let moved = contents(&*target).unwrap();
    assert_eq!(
        (
            moved.len() as u64,
            moved[usize::try_from(SIZE + 4096).unwrap()]
        ),
        (SIZE * 2, 3)
    );
}

/// A format whose writes fail while it is told so.
struct Failing(Arc<dyn Format>, std::sync::atomic::AtomicBool);

impl Format for Failing {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn files(&self) -> Vec<Arc<File>> {
        self.0.files()
    }
    fn map(&self, offset: u64, len: u64) -> std::io::Result<Mapped> {
        self.0.map(offset, len)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, into)
    }
    fn write(&self, offset: u64, from: &[u8]) -> std::io::Result<()> {
        if self.1.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.write(offset, from)
    }
    fn discard(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.0.discard(offset, len)
    }
    fn flush(&self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn an_error_of_the_target_ends_the_copy_which_goes_on_when_told_or_is_given_up() {
    for retry in [true, false] {
        let source: Arc<dyn Format> = sparse(SIZE);
        let disk = EagerDisk::new(Arc::clone(&source));
        let writers = Writers::start(&disk, 3, 60);
        // Something that nobody writes again.
        disk.write(SIZE - 4096, &[0xab; 4096]).unwrap();
        let target = Arc::new(Failing(sparse(SIZE), true.into()));
        until(|| disk.contents().unwrap()[0] != 0);
        let mut mirror = Mirror::start(disk.clone(), target.clone(), None, options()).unwrap();
        assert!(matches!(mirror.wait(), Err(MirrorError::Target(_))));
        std::thread::sleep(Duration::from_millis(3));
        let now: Arc<dyn Format> = if retry {
            target.1.store(false, std::sync::atomic::Ordering::SeqCst);
            mirror.retry().unwrap();
            mirror.wait().unwrap();
            target
        } else {
            assert!(!mirror.cancel().unwrap());
            source
        };
        assert!(Arc::ptr_eq(&now, &disk.format()));
        assert_eq!(
            contents(&*now).unwrap()[usize::try_from(SIZE - 4096).unwrap()],
            0xab
        );
        let last = writers.stop();
        assert_eq!(moment(&contents(&*now).unwrap(), 3, 60), Some(last));
    }
}

#[test]
fn a_rate_holds_and_a_cancel_does_not_wait_for_it() {
    let source = sparse(64 << 20);
    source.write(0, &vec![1; 8 << 20]).unwrap();
    let disk = EagerDisk::new(source.clone());
    let began = Instant::now();
    let slow = MirrorOptions {
        rate: 1 << 20,
        ..options()
    };
    let mirror = Mirror::start(disk.clone(), sparse(64 << 20), None, slow).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let progress = mirror.progress();
    assert!(progress.copied <= 2 << 20, "{progress:?}");
    assert_eq!((progress.total, progress.round), (64 << 20, 1));
    assert!(!mirror.cancel().unwrap());
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(Arc::ptr_eq(&(source as Arc<dyn Format>), &disk.format()));
}

#[test]
fn what_is_on_top_is_not_swept_away() {
    let disk = EagerDisk::new(sparse(SIZE));
    let ask = MirrorOptions {
        ask: true,
        ..options()
    };
    let mut mirror = Mirror::start(disk.clone(), sparse(SIZE), None, ask).unwrap();
    let store = crate::anonymous_store(&std::env::temp_dir()).unwrap();
    let view = crate::Snapshot::start(disk.clone(), store, Granularity::default()).unwrap();
    mirror.switch();
    assert!(matches!(mirror.wait(), Err(MirrorError::Covered)));
    drop(view);
    mirror.retry().unwrap();
    mirror.wait().unwrap();
}

/// A mirror without its thread, on files that a crash may leave half written.
struct Rig {
    source: Arc<CrashFile>,
    target: Arc<CrashFile>,
    file: Arc<CrashFile>,
    tracker: Arc<DirtyTracker>,
    worker: Worker,
}

const GRANULE: u64 = 4096;
const GRANULES: u64 = 64;

fn raw(file: &Arc<CrashFile>) -> Arc<dyn Format> {
    Arc::new(RawFormat::new(
        Arc::clone(file),
        Geometry::new(GRANULES * GRANULE / 512),
    ))
}

impl Rig {
    fn new(
        source: Arc<CrashFile>,
        target: Arc<CrashFile>,
        file: Arc<CrashFile>,
        state: MirrorState,
    ) -> Self {
        let options = MirrorOptions {
            granularity: Granularity::new(GRANULE).unwrap(),
            ..MirrorOptions::default()
        };
        let (tracker, ledger) = put_on(&raw(&source), &raw(&target), Some(state), options).unwrap();
        let disk = EagerDisk::new(Arc::clone(&tracker) as Arc<dyn Format>);
        let control = Arc::new(Control::new(0));
        let worker = Worker::new(
            disk,
            Arc::clone(&tracker),
            raw(&target),
            ledger,
            control,
            options,
        );
        Self {
            source,
            target,
            file,
            tracker,
            worker,
        }
    }

    fn write(&self, granule: u64, byte: u8) {
        let bytes = [byte; 4096];
        let mapped = self.tracker.map(granule * GRANULE, GRANULE).unwrap();
        if matches!(
            mapped.extent,
            cantle_image::Extent::Data { writable: true, .. }
        ) {
            self.source.write_at(granule * GRANULE, &bytes).unwrap();
        } else {
            self.tracker.write(granule * GRANULE, &bytes).unwrap();
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Write(u64, u8),
    Step,
    Round,
    SyncPoint,
    FlushSource,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..GRANULES, any::<u8>()).prop_map(|(granule, byte)| Act::Write(granule, byte)),
        2 => Just(Act::Step),
        2 => Just(Act::Round),
        2 => Just(Act::SyncPoint),
        1 => Just(Act::FlushSource),
    ];
    prop::collection::vec(act, 0..30)
}

proptest! {
    #[test]
    fn after_a_crash_what_is_said_to_be_copied_is(attempts in prop::collection::vec((acts(), prop::collection::vec(any::<bool>(), 1..50)), 1..4), region in 0_u32..3) {
        let bytes = |byte| vec![byte; usize::try_from(GRANULES * GRANULE).unwrap()];
        let file = CrashFile::new(&[]).unwrap();
        let region = Granularity::new(GRANULE << region).unwrap();
        let state = MirrorState::create(Box::new(Arc::clone(&file)), GRANULES * GRANULE, region).unwrap();
        let mut rig = Rig::new(CrashFile::new(&bytes(1)).unwrap(), CrashFile::new(&bytes(2)).unwrap(), file, state);
        for (acts, keep) in attempts {
            let mut at = 0;
            for act in acts {
                match act {
                    Act::Write(granule, byte) => rig.write(granule, byte),
                    Act::Step => { rig.worker.step(&mut at).unwrap(); }
                    Act::Round => rig.worker.round().unwrap(),
                    Act::SyncPoint => rig.worker.sync_point().unwrap(),
                    Act::FlushSource => rig.tracker.flush().unwrap(),
                }
            }
            let mut keep = keep.into_iter().cycle();
            let mut keep = || keep.next().unwrap();
            let [source, target, file] = [&rig.source, &rig.target, &rig.file].map(|file| CrashFile::new(&file.crash(&mut keep)).unwrap());
            let state = MirrorState::open(Box::new(Arc::clone(&file))).unwrap();
            prop_assert_eq!(state.stage(), Stage::Copying);
            rig = Rig::new(source, target, file, state);
            let (source, target) = (rig.source.contents().unwrap(), rig.target.contents().unwrap());
            let dirty = rig.tracker.dirty();
            for granule in 0..GRANULES {
                let part = usize::try_from(granule * GRANULE).unwrap()..usize::try_from((granule + 1) * GRANULE).unwrap();
                let to_copy = dirty.iter().any(|run| run.contains(&(granule * GRANULE)));
                prop_assert!(to_copy || source[part.clone()] == target[part], "granule {granule} is lost");
            }
        }
        rig.worker.round().unwrap();
        prop_assert!(rig.source.contents().unwrap() == rig.target.contents().unwrap());
    }
}

#[test]
fn what_was_copied_is_not_copied_again() {
    let data = CrashFile::new(&vec![7; usize::try_from(GRANULES * GRANULE).unwrap()]).unwrap();
    let file = CrashFile::new(&[]).unwrap();
    let region = Granularity::new(2 * GRANULE).unwrap();
    let state =
        MirrorState::create(Box::new(Arc::clone(&file)), GRANULES * GRANULE, region).unwrap();
    let target = CrashFile::new(&vec![0; usize::try_from(GRANULES * GRANULE).unwrap()]).unwrap();
    let mut rig = Rig::new(data, target, Arc::clone(&file), state);
    rig.worker.round().unwrap();
    rig.write(5, 1);
    let again =
        MirrorState::open(Box::new(CrashFile::new(&file.crash(|| false)).unwrap())).unwrap();
    let Rig { source, target, .. } = rig;
    let rig = Rig::new(source, target, file, again);
    assert_eq!(rig.tracker.dirty(), vec![4 * GRANULE..6 * GRANULE; 1]);
}

#[test]
fn what_the_source_loses_in_a_crash_is_not_taken_for_copied() {
    let bytes =
        |byte| CrashFile::new(&vec![byte; usize::try_from(GRANULES * GRANULE).unwrap()]).unwrap();
    let (source, target, file) = (bytes(1), bytes(2), CrashFile::new(&[]).unwrap());
    let region = Granularity::new(GRANULE).unwrap();
    let state =
        MirrorState::create(Box::new(Arc::clone(&file)), GRANULES * GRANULE, region).unwrap();
    let mut rig = Rig::new(source, target, Arc::clone(&file), state);
    rig.write(0, 2);
    rig.worker.round().unwrap();
    let syncs = rig.source.syncs();
    assert_eq!((syncs, rig.source.crash(|| false)[0]), (1, 2));
}

#[test]
fn a_state_that_is_over_or_does_not_fit_is_refused() {
    let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
    let open = || MirrorState::open(Box::new(Arc::clone(&file))).unwrap();
    let region = Granularity::new(16384).unwrap();
    let begin = |bytes| MirrorState::create(Box::new(Arc::clone(&file)), bytes, region).unwrap();
    let disk = EagerDisk::new(sparse(SIZE));
    Mirror::start(disk.clone(), sparse(SIZE), Some(begin(SIZE)), options())
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(open().stage(), Stage::Finished);
    let unfit = Mirror::start(disk.clone(), sparse(SIZE), Some(open()), options());
    assert!(matches!(
        unfit,
        Err(MirrorError::Unfit(Stage::Finished, SIZE))
    ));
    let ask = MirrorOptions {
        ask: true,
        ..options()
    };
    drop(Mirror::start(disk.clone(), sparse(SIZE), Some(begin(SIZE)), ask).unwrap());
    assert_eq!(open().stage(), Stage::GivenUp);
    let unfit = Mirror::start(disk.clone(), sparse(SIZE), Some(begin(SIZE * 2)), ask);
    assert!(matches!(unfit, Err(MirrorError::Unfit(Stage::Copying, _))));
    let mirror = Mirror::start(disk.clone(), sparse(SIZE), Some(begin(SIZE)), ask).unwrap();
    until(|| mirror.progress().ready);
    mirror.leave().unwrap();
    assert_eq!(open().stage(), Stage::Copying);
    assert_eq!(open().copied(SIZE).unwrap().count(), SIZE / 16384);
    assert!(Storage::len(&file).unwrap() > 4096);
}

#[test]
fn a_state_that_cannot_be_kept_ends_the_copy_and_not_the_disk() {
    let file = CrashFile::new(&[]).unwrap();
    let region = Granularity::new(16384).unwrap();
    let state = MirrorState::create(Box::new(Arc::clone(&file)), SIZE, region).unwrap();
    let disk = EagerDisk::new(sparse(SIZE));
    let ask = MirrorOptions {
        ask: true,
        ..options()
    };
    let mut mirror = Mirror::start(disk.clone(), sparse(SIZE), Some(state), ask).unwrap();
    until(|| mirror.progress().ready);
    file.set_budget(Some(0));
    disk.write(0, &[1; 4096]).unwrap();
    assert!(matches!(mirror.wait(), Err(MirrorError::State(_))));
    disk.write(65536, &[1; 4096]).unwrap();
}

#[test]
fn what_is_written_during_a_sync_point_is_not_said_to_be_copied() {
    let bytes = vec![7; usize::try_from(GRANULES * GRANULE).unwrap()];
    let (source, target) = (
        CrashFile::new(&bytes).unwrap(),
        CrashFile::new(&bytes).unwrap(),
    );
    let file = CrashFile::new(&[]).unwrap();
    let region = Granularity::new(2 * GRANULE).unwrap();
    let state =
        MirrorState::create(Box::new(Arc::clone(&file)), GRANULES * GRANULE, region).unwrap();
    let options = MirrorOptions {
        granularity: Granularity::new(GRANULE).unwrap(),
        ..MirrorOptions::default()
    };
    let (tracker, ledger) = put_on(&raw(&source), &raw(&target), Some(state), options).unwrap();
    let ledger = ledger.unwrap();
    while tracker.clear_first(0, u64::MAX).is_some() {}
    ledger
        .sync_point(&tracker, || tracker.write(3 * GRANULE, &[1; 4096]))
        .unwrap();
    let again = MirrorState::open(Box::new(file))
        .unwrap()
        .copied(GRANULES * GRANULE)
        .unwrap();
    assert_eq!((again.count(), again.get(1)), (GRANULES / 2 - 1, false));
}
