use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use cantle_image::RawFormat;
use cantle_image::test_utils::CrashFile;
use proptest::prelude::*;

use super::*;
use crate::test_utils::EagerDisk;

const GRANULE: u64 = 4096;
const GRANULES: u64 = 48;

/// A disk that a crash may leave half written, with its file of changes.
struct Host {
    data: Arc<CrashFile>,
    file: Arc<CrashFile>,
    changed: Arc<ChangedBlocks>,
    disk: Arc<EagerDisk>,
}

fn raw(data: &Arc<CrashFile>, granules: u64) -> Arc<dyn Format> {
    Arc::new(RawFormat::new(
        Arc::clone(data),
        Geometry::new(granules * GRANULE / 512),
    ))
}

impl Host {
    fn new() -> Self {
        let data = CrashFile::new(&vec![0; usize::try_from(GRANULES * GRANULE).unwrap()]).unwrap();
        let file = CrashFile::new(b"whatever").unwrap();
        let granularity = Granularity::new(GRANULE).unwrap();
        let changed = ChangedBlocks::create(
            raw(&data, GRANULES),
            Box::new(Arc::clone(&file)),
            granularity,
        );
        Self::of(data, file, changed.unwrap())
    }

    fn of(data: Arc<CrashFile>, file: Arc<CrashFile>, changed: ChangedBlocks) -> Self {
        let changed = Arc::new(changed);
        // Every write by the format, so that the file of the crash sees it.
        let disk = EagerDisk::new(Arc::clone(&changed) as Arc<dyn Format>);
        Self {
            data,
            file,
            changed,
            disk,
        }
    }

    /// The host as it comes back after a crash, with what `keep` says of what was not on the medium.
    fn crash(&self, mut keep: impl FnMut() -> bool) -> (Vec<u8>, Self) {
        let data = CrashFile::new(&self.data.crash(&mut keep)).unwrap();
        let file = CrashFile::new(&self.file.crash(&mut keep)).unwrap();
        let changed =
            ChangedBlocks::open(raw(&data, GRANULES), Box::new(Arc::clone(&file))).unwrap();
        let contents = data.contents().unwrap();
        (contents, Self::of(data, file, changed))
    }

    fn write(&self, granule: u64, byte: u8) {
        // As a disk does it: in place where that is allowed, but in a way that a crash can undo.
        let bytes = [byte; 4096];
        let mapped = self.changed.map(granule * GRANULE, GRANULE).unwrap();
        if matches!(
            mapped.extent,
            cantle_image::Extent::Data { writable: true, .. }
        ) {
            self.data.write_at(granule * GRANULE, &bytes).unwrap();
        } else {
            self.changed.write(granule * GRANULE, &bytes).unwrap();
        }
    }

    fn changed(&self, id: GenerationId) -> Vec<u64> {
        let changes = self.changed.changed_since(id).unwrap();
        changes
            .extents()
            .flat_map(|extent| extent.start / GRANULE..extent.end / GRANULE)
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Act {
    Write(u64, u8),
    Checkpoint,
    Remove(usize),
    Save,
    Flush,
    Reopen,
    Crash(Vec<bool>),
}

fn acts(crashes: u32) -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        12 => (0..GRANULES, any::<u8>()).prop_map(|(granule, byte)| Act::Write(granule, byte)),
        3 => Just(Act::Checkpoint),
        1 => (0_usize..8).prop_map(Act::Remove),
        2 => Just(Act::Save),
        1 => Just(Act::Flush),
        1 => Just(Act::Reopen),
        crashes => prop::collection::vec(any::<bool>(), 1..32).prop_map(Act::Crash),
    ];
    prop::collection::vec(act, 1..60)
}

/// Acts, and sees that all that differs from a checkpoint's contents has changed since; without a crash also that nothing else has.
fn run(acts: Vec<Act>) -> std::result::Result<(), TestCaseError> {
    let mut host = Host::new();
    let first = host.changed.generations()[0].id;
    let mut checkpoints = vec![(first, host.data.contents().unwrap(), Vec::<u64>::new())];
    let mut crashed = false;
    for act in acts {
        match act {
            Act::Write(granule, byte) => {
                host.write(granule, byte);
                checkpoints
                    .iter_mut()
                    .for_each(|(_, _, written)| written.push(granule));
            }
            Act::Checkpoint => {
                let id = host.changed.checkpoint(&*host.disk).unwrap();
                checkpoints.push((id, host.data.contents().unwrap(), Vec::new()));
            }
            Act::Remove(index) if checkpoints.len() > 1 => {
                let (id, _, _) = checkpoints.remove(index % checkpoints.len());
                host.changed.remove(id).unwrap();
            }
            Act::Remove(_) => {}
            Act::Save => host.changed.save().unwrap(),
            Act::Flush => host.changed.flush().unwrap(),
            Act::Reopen => {
                let Host {
                    data,
                    file,
                    changed,
                    disk,
                } = host;
                drop((changed, disk));
                let changed =
                    ChangedBlocks::open(raw(&data, GRANULES), Box::new(Arc::clone(&file))).unwrap();
                host = Host::of(data, file, changed);
            }
            Act::Crash(keep) => {
                let mut keep = keep.into_iter().cycle();
                let (_, after) = host.crash(|| keep.next().unwrap());
                // The old one must not save: the host is gone.
                let before = std::mem::replace(&mut host, after);
                before.file.set_budget(Some(0));
                crashed = true;
            }
        }
        let now = host.data.contents().unwrap();
        for (id, then, written) in &checkpoints {
            let changed = host.changed(*id);
            for granule in 0..GRANULES {
                let part = usize::try_from(granule * GRANULE).unwrap()
                    ..usize::try_from((granule + 1) * GRANULE).unwrap();
                let differs = now[part.clone()] != then[part];
                prop_assert!(
                    !differs || changed.contains(&granule),
                    "granule {granule} has changed"
                );
                if !crashed {
                    prop_assert_eq!(changed.contains(&granule), written.contains(&granule));
                }
            }
        }
        let ids: Vec<_> = host
            .changed
            .generations()
            .iter()
            .map(|generation| generation.id)
            .collect();
        prop_assert_eq!(
            ids,
            checkpoints.iter().map(|(id, _, _)| *id).collect::<Vec<_>>()
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_was_written_has_changed_and_nothing_else(acts in acts(0)) {
        run(acts)?;
    }

    #[test]
    fn after_crashes_nothing_that_differs_is_missing(acts in acts(3)) {
        run(acts)?;
    }

    #[test]
    fn a_checkpoint_survives_a_crash_at_any_write(budget in 0_u64..6, keep in prop::collection::vec(any::<bool>(), 1..40)) {
        let host = Host::new();
        let first = host.changed.generations()[0].id;
        host.write(3, 3);
        host.file.set_budget(Some(budget));
        let second = host.changed.checkpoint(&*host.disk);
        host.file.set_budget(None);
        host.write(5, 5);
        prop_assert!(host.changed(first).starts_with(&[3, 5]));
        if let Ok(second) = &second {
            prop_assert_eq!(host.changed(*second), [5]);
        }
        let mut keep = keep.into_iter().cycle();
        let (_, after) = host.crash(|| keep.next().unwrap());
        prop_assert_eq!(after.changed(first).len() as u64, GRANULES);
        if let Ok(second) = second {
            prop_assert_eq!(after.changed(second).len() as u64, GRANULES);
        }
    }
}

#[test]
fn a_write_that_the_file_cannot_be_prepared_for_fails() {
    let host = Host::new();
    host.file.set_budget(Some(0));
    host.changed.write(0, &[1; 4096]).unwrap_err();
    assert_eq!(host.data.contents().unwrap()[0], 0);
    host.file.set_budget(None);
    host.changed.write(0, &[1; 4096]).unwrap();
    assert!(
        !host
            .changed
            .changed_since(host.changed.generations()[0].id)
            .unwrap()
            .all
    );
}

#[test]
fn what_a_disk_has_grown_by_has_changed() {
    let host = Host::new();
    let id = host.changed.generations()[0].id;
    let Host {
        data,
        file,
        changed,
        disk,
    } = host;
    drop((changed, disk));
    Storage::set_len(&data, (GRANULES + 2) * GRANULE).unwrap();
    let changed = ChangedBlocks::open(raw(&data, GRANULES + 2), Box::new(file)).unwrap();
    let host = Host::of(data, CrashFile::new(&[]).unwrap(), changed);
    assert_eq!(host.changed(id), [GRANULES, GRANULES + 1]);
    host.changed.grow((GRANULES + 4) * GRANULE / 512).unwrap();
    assert_eq!(
        host.changed(id),
        [GRANULES, GRANULES + 1, GRANULES + 2, GRANULES + 3]
    );
}

#[test]
fn of_a_disk_that_has_shrunk_everything_has_changed() {
    let host = Host::new();
    let id = host.changed.generations()[0].id;
    let Host {
        data,
        file,
        changed,
        disk,
    } = host;
    drop((changed, disk));
    let changed = ChangedBlocks::open(raw(&data, GRANULES - 1), Box::new(file)).unwrap();
    let changes = changed.changed_since(id).unwrap();
    assert!(changes.all);
    assert_eq!(changes.bytes(), (GRANULES - 1) * GRANULE);
}

#[test]
fn there_are_no_more_than_64_generations() {
    let host = Host::new();
    for _ in 1..64 {
        host.changed.checkpoint(&*host.disk).unwrap();
    }
    let full = host.changed.checkpoint(&*host.disk).unwrap_err();
    assert!(matches!(full, ChangedError::Full(64)));
    let oldest = host.changed.generations()[0].id;
    host.changed.remove(oldest).unwrap();
    assert!(
        matches!(host.changed.changed_since(oldest), Err(ChangedError::Unknown(id)) if id == oldest)
    );
    host.changed.checkpoint(&*host.disk).unwrap();
}

#[test]
fn an_id_is_written_as_a_uuid() {
    let id: GenerationId = "01234567-89ab-4def-8123-456789abcdef".parse().unwrap();
    assert_eq!(id.to_string(), "01234567-89ab-4def-8123-456789abcdef");
    for wrong in [
        "",
        "+1234567-89ab-4def-8123-456789abcdef",
        "01234567-89ab-4def-8123-456789abcde",
        "€€€€€€€€€€",
    ] {
        assert_eq!(wrong.parse::<GenerationId>(), Err(NotAUuid));
    }
}

/// A file whose synchronisations fail when so many are left.
struct Unsynced(Arc<CrashFile>, Arc<AtomicI64>);

impl Storage for Unsynced {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> IoResult<()> {
        self.0.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, from: &[u8]) -> IoResult<()> {
        self.0.write_at(offset, from)
    }
    fn len(&self) -> IoResult<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> IoResult<()> {
        self.0.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> IoResult<()> {
        self.0.punch(offset, len)
    }
    fn sync(&self) -> IoResult<()> {
        if self.1.fetch_sub(1, Ordering::SeqCst) == 0 {
            return Err(std::io::ErrorKind::Other.into());
        }
        self.0.sync()
    }
    fn file(&self) -> Arc<File> {
        self.0.file()
    }
}

#[test]
fn what_fails_to_be_said_on_file_may_stand_there_all_the_same() {
    // The synchronisation that fails, and what it fails in: a checkpoint or a save.
    for (fails, save) in [(0, false), (1, false), (0, true), (1, true)] {
        let host = Host::new();
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let file = Unsynced(Arc::clone(&host.file), Arc::clone(&left));
        let granularity = Granularity::new(GRANULE).unwrap();
        let changed = ChangedBlocks::create(raw(&host.data, GRANULES), Box::new(file), granularity);
        let host = Host::of(host.data.clone(), host.file.clone(), changed.unwrap());
        let first = host.changed.generations()[0].id;
        host.write(3, 3);
        left.store(fails, Ordering::SeqCst);
        if save {
            host.changed.save().unwrap_err();
        } else {
            host.changed.checkpoint(&*host.disk).unwrap_err();
        }
        host.write(5, 5);
        for keep in [true, false] {
            let (_, after) = host.crash(|| keep);
            let changed = after.changed(first);
            assert!(changed.contains(&3) && changed.contains(&5), "{changed:?}");
        }
    }
}
