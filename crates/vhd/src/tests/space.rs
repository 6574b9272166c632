//! The host has no more room.

use std::fs::File;
use std::io::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cantle_image::test_utils::CrashFile;
use cantle_image::{Format, Storage};

use super::{Random, options, parent, raw, read, read_all, sector, sectors};
use crate::{CreateOptions, Kind, OpenOptions, Parents, Vhd};

#[test]
fn a_full_host_leaves_a_valid_image_with_old_or_new_sectors() {
    for kind in [Kind::Dynamic, Kind::Differencing] {
        for seed in 1..150 {
            fill(kind, seed * 15_485_863);
        }
    }
}

fn fill(kind: Kind, seed: u64) {
    let mut random = Random(seed);
    let below = sectors(1 << 40, super::SECTORS);
    let differencing = kind == Kind::Differencing;
    let options = CreateOptions {
        parent: differencing.then(|| parent(raw(&below))),
        ..options(kind)
    };
    let opening = OpenOptions {
        parents: if differencing {
            Parents::Given(raw(&below))
        } else {
            Parents::Refuse
        },
        ..OpenOptions::default()
    };
    let file = CrashFile::new(&[]).unwrap();
    let disk = Vhd::create(Arc::clone(&file), &options).unwrap();
    let mut model = read_all(&disk);
    let (mut tag, mut failed) = (1, 0);
    for _ in 0..60 {
        // Room for some writes, then for none, then for all.
        file.set_budget((random.below(3) != 0).then(|| random.below(6)));
        let at = random.below(super::SECTORS - 24);
        let count = random.below(24) + 1;
        tag += count;
        let new = sectors(tag, count);
        let written = disk.write(at * 512, &new);
        failed += u64::from(written.is_err());
        let range =
            usize::try_from(at * 512).unwrap()..usize::try_from((at + count) * 512).unwrap();
        let now = read(&disk, at * 512, range.len());
        for ((now, old), new) in now
            .chunks(512)
            .zip(model[range.clone()].chunks(512))
            .zip(new.chunks(512))
        {
            assert!(now == new || (written.is_err() && now == old));
        }
        model[range].copy_from_slice(&now);
        if random.below(8) == 0 {
            let _ = disk.flush();
        }
    }
    assert!(failed > 0, "it was never full");
    file.set_budget(None);
    assert!(read_all(&disk) == model);
    disk.flush().unwrap();
    let left = file.crash(|| false);
    let again = Vhd::open(CrashFile::new(&left).unwrap(), &opening).unwrap();
    let report = again.check().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert!(read_all(&again) == model);
}

#[test]
fn a_full_host_does_not_make_the_file_longer() {
    let file = CrashFile::new(&[]).unwrap();
    let disk = Vhd::create(Arc::clone(&file), &options(Kind::Dynamic)).unwrap();
    let before = file.contents().unwrap().len();
    for _ in 0..50 {
        // The footer can be written, and the bitmap; no more.
        file.set_budget(Some(2));
        disk.write(0, &sector(1)).unwrap_err();
    }
    let after = file.contents().unwrap().len();
    assert!(
        after < before + 100 * 4096 * 2,
        "each attempt takes new room at worst: {after}"
    );
    file.set_budget(None);
    disk.write(0, &sector(2)).unwrap();
    assert_eq!(read(&disk, 0, 512), sector(2));
}

#[test]
fn waiting_metadata_does_not_grow_without_bound() {
    let file = CrashFile::new(&[]).unwrap();
    let options = CreateOptions {
        sectors: Some(8 * 5000),
        ..options(Kind::Dynamic)
    };
    let disk = Vhd::create(Arc::clone(&file), &options).unwrap();
    let before = file.syncs();
    for block in 0..5000 {
        disk.write(block * 4096, &sector(block)).unwrap();
    }
    assert!(
        (4..=24).contains(&(file.syncs() - before)),
        "{}",
        file.syncs() - before
    );
}

/// A file on a host that has room for the first half of a write, and then for no more.
struct Halfway {
    file: Arc<File>,
    full: Arc<AtomicBool>,
    /// Whether a file can be made shorter when the host is full.
    can_shrink: bool,
}

impl Storage for Halfway {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<()> {
        if from.len() > 512 && self.full.load(Ordering::Relaxed) {
            self.file.write_at(offset, &from[..from.len() / 2])?;
            return Err(Error::from(rustix::io::Errno::NOSPC));
        }
        self.file.write_at(offset, from)
    }

    fn len(&self) -> Result<u64> {
        Storage::len(&self.file)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if self.full.load(Ordering::Relaxed) && !self.can_shrink {
            return Err(Error::from(rustix::io::Errno::NOSPC));
        }
        Storage::set_len(&self.file, len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.file.punch(offset, len)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

#[test]
fn half_a_block_is_nowhere() {
    for can_shrink in [true, false] {
        let full = Arc::new(AtomicBool::new(false));
        let storage = Halfway {
            file: super::file(),
            full: Arc::clone(&full),
            can_shrink,
        };
        let file = storage.file();
        let disk = Vhd::create(storage, &options(Kind::Dynamic)).unwrap();
        let before = Storage::len(&file).unwrap();
        full.store(true, Ordering::Relaxed);
        let failed = disk.write(0, &sectors(1, 8)).unwrap_err();
        assert_eq!(
            failed.raw_os_error(),
            Some(rustix::io::Errno::NOSPC.raw_os_error())
        );
        assert_eq!(Storage::len(&file).unwrap() == before, can_shrink);
        full.store(false, Ordering::Relaxed);
        disk.write(7 * 512, &sector(9)).unwrap();
        assert_eq!(
            read(&disk, 0, 4096),
            [&[0; 7 * 512][..], &sector(9)].concat()
        );
        assert!(disk.check().unwrap().is_clean());
    }
}
