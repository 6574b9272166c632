//! The host crashes at any moment, and any part of what was written since the last flush is on the medium.

use std::fs::File;
use std::io::Result;
use std::sync::{Arc, Mutex};

use cantle_image::test_utils::CrashFile;
use cantle_image::{Format, Storage};
use proptest::prelude::*;

use super::{Random, options, parent, qemu, raw, read, sector, sectors};
use crate::{CreateOptions, Kind, OpenOptions, Parents, Vhd};

/// What the sectors of a disk may be after a crash: what each was when it was flushed, and what was written since.
struct Hopes {
    sectors: Vec<Vec<u64>>,
    tag: u64,
}

fn tag_of(bytes: &[u8]) -> u64 {
    let tag = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(
        bytes == sector(tag),
        "a torn sector, or somebody else's bytes"
    );
    tag
}

impl Hopes {
    fn write(&mut self, disk: &Vhd, at: u64, count: u64) {
        self.tag += count;
        disk.write(at * 512, &sectors(self.tag, count)).unwrap();
        for (tag, hopes) in (self.tag..).zip(self.range(at, count)) {
            hopes.push(tag);
        }
    }

    fn discard(&mut self, disk: &Vhd, at: u64, count: u64) {
        disk.discard(at * 512, count * 512).unwrap();
        let now = read(disk, at * 512, usize::try_from(count * 512).unwrap());
        for (hopes, bytes) in self.range(at, count).iter_mut().zip(now.chunks(512)) {
            hopes.push(tag_of(bytes));
        }
    }

    fn flush(&mut self, disk: &Vhd) {
        disk.flush().unwrap();
        self.flushed();
    }

    fn flushed(&mut self) {
        for hopes in &mut self.sectors {
            hopes.drain(..hopes.len() - 1);
        }
    }

    /// Whether a disk is one of those that may be; what it is, is what is hoped for from now on.
    fn check(&mut self, disk: &Vhd) {
        let now = super::read_all(disk);
        for (at, (hopes, bytes)) in self.sectors.iter_mut().zip(now.chunks(512)).enumerate() {
            let tag = tag_of(bytes);
            assert!(
                hopes.contains(&tag),
                "sector {at} is {tag}, not one of {hopes:?}"
            );
            *hopes = vec![tag];
        }
    }

    fn range(&mut self, at: u64, count: u64) -> &mut [Vec<u64>] {
        let at = usize::try_from(at).unwrap();
        &mut self.sectors[at..at + usize::try_from(count).unwrap()]
    }
}

/// Works on a disk, lets the host crash, and looks what is there, several times over; what is left of the file in the end.
fn crash(kind: Kind, seed: u64, keep_percent: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let below = sectors(1 << 40, super::SECTORS);
    let differencing = kind == Kind::Differencing;
    let options = CreateOptions {
        parent: differencing.then(|| parent(raw(&below))),
        ..options(kind)
    };
    let first = |at| if differencing { (1 << 40) + at } else { 0 };
    let mut hopes = Hopes {
        sectors: (0..super::SECTORS).map(|at| vec![first(at)]).collect(),
        tag: 1,
    };
    let opening = OpenOptions {
        parents: if differencing {
            Parents::Given(raw(&below))
        } else {
            Parents::Refuse
        },
        ..OpenOptions::default()
    };
    let mut file = CrashFile::new(&[]).unwrap();
    let noted = Arc::default();
    let storage = |file: &Arc<CrashFile>| Noted {
        file: Arc::clone(file),
        left: Arc::clone(&noted),
    };
    let mut disk = Vhd::create(storage(&file), &options).unwrap();
    for _ in 0..4 {
        for _ in 0..random.below(60) {
            let at = random.below(super::SECTORS);
            let count = (random.below(24) + 1).min(super::SECTORS - at);
            match random.below(12) {
                0 => hopes.flush(&disk),
                1 => hopes.discard(&disk, at, count),
                _ => hopes.write(&disk, at, count),
            }
        }
        // The last flush ends somewhere in its middle, or not.
        file.set_budget(Some(random.below(8)));
        noted.lock().unwrap().clear();
        let flushed = disk.flush().is_ok();
        let mut left = file.crash(|| random.below(100) < keep_percent);
        let mut middle = std::mem::take(&mut *noted.lock().unwrap());
        if random.below(2) == 0 && !middle.is_empty() {
            let which = random.below(middle.len() as u64);
            left = middle.swap_remove(usize::try_from(which).unwrap());
        } else if flushed {
            hopes.flushed();
        }
        file.set_budget(None);
        file = CrashFile::new(&left).unwrap();
        disk = Vhd::open(storage(&file), &opening).unwrap();
        let report = disk.check().unwrap();
        assert!(report.is_clean(), "{report:?}");
        hopes.check(&disk);
    }
    hopes.write(&disk, 0, super::SECTORS);
    hopes.flush(&disk);
    let left = file.crash(|| false);
    let again = Vhd::open(CrashFile::new(&left).unwrap(), &opening).unwrap();
    hopes.check(&again);
    left
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn what_was_flushed_survives(
        differencing in any::<bool>(),
        seed in any::<u64>(),
        keep in prop_oneof![Just(0_u64), Just(50), Just(90), Just(100)],
    ) {
        let kind = if differencing { Kind::Differencing } else { Kind::Dynamic };
        crash(kind, seed, keep);
    }
}

#[test]
fn fixed_disks_survive() {
    for seed in 1..20 {
        crash(Kind::Fixed, seed * 7_919, 50);
    }
}

/// A file on a host that crashes, which notes what a crash may leave just before it is synchronised: then the most is on its way.
pub(super) struct Noted {
    pub(super) file: Arc<CrashFile>,
    pub(super) left: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// So many of them are noted.
const NOTED: usize = 200;

impl Storage for Noted {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.file.write_at(offset, from)
    }

    fn len(&self) -> Result<u64> {
        Storage::len(&self.file)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.file.punch(offset, len)
    }

    fn sync(&self) -> Result<()> {
        let mut left = self.left.lock().unwrap();
        for seed in 1..6 {
            let mut random = Random((left.len() as u64 + seed) * 2_654_435_761);
            if left.len() < NOTED {
                left.push(self.file.crash(|| random.below(2) == 0));
            }
        }
        drop(left);
        self.file.sync()?;
        // What others write before the caller goes on is not covered.
        std::thread::yield_now();
        Ok(())
    }

    fn file(&self) -> Arc<File> {
        self.file.file()
    }
}

#[test]
fn growing_survives() {
    for kind in [Kind::Fixed, Kind::Dynamic] {
        for more in [1, 7, 4000, 40_000] {
            let left = Arc::default();
            let storage = Noted {
                file: CrashFile::new(&[]).unwrap(),
                left: Arc::clone(&left),
            };
            let file = Arc::clone(&storage.file);
            let disk = Vhd::create(storage, &options(kind)).unwrap();
            let old = sectors(1, super::SECTORS);
            disk.write(0, &old).unwrap();
            disk.flush().unwrap();
            left.lock().unwrap().clear();
            disk.grow(super::SECTORS + more).unwrap();
            let mut crashes = std::mem::take(&mut *left.lock().unwrap());
            assert!(crashes.len() >= 10, "it goes in steps");
            let last = crashes.len();
            crashes.push(file.crash(|| false));
            for (index, left) in crashes.iter().enumerate() {
                let again =
                    Vhd::open(CrashFile::new(left).unwrap(), &OpenOptions::default()).unwrap();
                let size = again.geometry().sectors;
                assert!(size == super::SECTORS || size == super::SECTORS + more);
                assert!(index < last || size > super::SECTORS, "what has grown, has");
                let report = again.check().unwrap();
                assert!(report.is_clean(), "{report:?}");
                let now = super::read_all(&again);
                assert!(now[..old.len()] == old);
                assert!(
                    now[old.len()..].iter().all(|&byte| byte == 0),
                    "{kind} {more} {index}"
                );
                again.grow(super::SECTORS + more + 1).unwrap();
            }
        }
    }
}

#[test]
fn others_read_what_a_crash_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crashed.vhd");
    for seed in 1..6 {
        let left = crash(Kind::Dynamic, seed * 6_700_417, 50);
        std::fs::write(&path, &left).unwrap();
        if !qemu::reads_as(&path, &sectors_of(&left)) {
            return;
        }
    }
}

fn sectors_of(image: &[u8]) -> Vec<u8> {
    let disk = Vhd::open(CrashFile::new(image).unwrap(), &OpenOptions::default()).unwrap();
    super::read_all(&disk)
}
