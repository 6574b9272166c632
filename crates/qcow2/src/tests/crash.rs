//! A host that crashes.

use std::io::Write;
use std::sync::Arc;

use cantle_image::test_utils::CrashFile;
use cantle_image::{Format, Storage};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::{all, opened, pattern, qemu, qemu_check};
use crate::{CreateOptions, create};

const SECTORS: u64 = 2048;

/// Random work with crashes between. `storage` may be one that breaks its promise.
fn survives(
    seed: u64,
    cluster_size: u64,
    rounds: u64,
    wrap: impl Fn(Arc<CrashFile>) -> Arc<dyn Storage>,
) -> Result<(), String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let file = CrashFile::new(&[]).unwrap();
    create(
        Arc::new(Arc::clone(&file)),
        &CreateOptions {
            cluster_size,
            ..CreateOptions::new(SECTORS * 512)
        },
    )
    .unwrap();
    let mut medium = file.contents().unwrap();
    let mut flushed = vec![0; usize::try_from(SECTORS * 512).unwrap()];
    for round in 0..rounds {
        let file = CrashFile::new(&medium).unwrap();
        let image = opened(wrap(Arc::clone(&file)));
        // What each sector may be after a crash: what was flushed, or anything written since.
        let mut maybe: Vec<Vec<Vec<u8>>> = flushed
            .chunks(512)
            .map(|sector| vec![sector.to_vec()])
            .collect();
        // The host crashes after so many writes, be it in the middle of a flush; or has no room for a moment, and goes on.
        let mut budget = (!rng.next_u64().is_multiple_of(8)).then(|| rng.next_u64() % 60);
        file.set_budget(budget);
        for _ in 0..5 + rng.next_u64() % 60 {
            let at = rng.next_u64() % SECTORS;
            let sectors = (1 + rng.next_u64() % 40).min(SECTORS - at);
            let len = usize::try_from(sectors * 512).unwrap();
            let place = usize::try_from(at).unwrap();
            let mut may_be = |bytes: &[u8]| {
                for (number, sector) in bytes.chunks(512).enumerate() {
                    maybe[place + number].push(sector.to_vec());
                }
            };
            let done = match rng.next_u64() % 10 {
                0..5 => {
                    let bytes = pattern(rng.next_u64(), len);
                    may_be(&bytes);
                    image.write(at * 512, &bytes)
                }
                5..8 => {
                    may_be(&vec![0; len]);
                    image.discard(at * 512, len as u64)
                }
                _ => image.flush().map(|()| {
                    maybe = all(&image)
                        .chunks(512)
                        .map(|sector| vec![sector.to_vec()])
                        .collect();
                }),
            };
            if done.is_err() {
                if !rng.next_u64().is_multiple_of(3) {
                    break;
                }
                budget = budget.map(|_| rng.next_u64() % 60);
                file.set_budget(budget);
            }
        }
        // The image is not flushed again.
        let likely = 1 + rng.next_u64() % 9;
        medium = file.crash(|| rng.next_u64() % 10 < likely);
        flushed = afterwards(&medium, &maybe).map_err(|error| format!("round {round}: {error}"))?;
        if round % 8 == 0 {
            medium = repaired(medium);
        }
    }
    Ok(())
}

fn afterwards(medium: &[u8], maybe: &[Vec<Vec<u8>>]) -> Result<Vec<u8>, String> {
    if qemu() {
        let mut path = tempfile::NamedTempFile::new().unwrap();
        path.write_all(medium).unwrap();
        let (code, said) = qemu_check(path.path());
        if code != 0 && code != 3 {
            return Err(said);
        }
    }
    let file = CrashFile::new(medium).unwrap();
    let image = opened(Arc::new(file));
    let report = image.check(false).unwrap();
    if report.errors != 0 {
        return Err(format!("{report:?}"));
    }
    let bytes = all(&image);
    for (number, (sector, maybe)) in bytes.chunks(512).zip(maybe).enumerate() {
        if !maybe.iter().any(|maybe| maybe == sector) {
            return Err(format!("sector {number} is neither old nor new"));
        }
    }
    Ok(bytes)
}

/// Without what the crashes lost.
fn repaired(medium: Vec<u8>) -> Vec<u8> {
    let file = CrashFile::new(&medium).unwrap();
    let image = opened(Arc::new(Arc::clone(&file)));
    let report = image.check(true).unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0));
    file.contents().unwrap()
}

#[test]
fn a_crash_loses_what_was_not_flushed_and_no_more() {
    for (seed, cluster_size) in [
        (1, 512),
        (2, 512),
        (3, 1024),
        (4, 4096),
        (5, 4096),
        (6, 65_536),
    ] {
        survives(seed, cluster_size, 24, |file| Arc::new(file)).unwrap();
    }
}

/// Calls something first when it is to synchronise, which says whether it may.
pub(super) struct Watched<F>(pub(super) Arc<CrashFile>, pub(super) F);

impl<F: Fn(&CrashFile) -> bool + Send + Sync> Storage for Watched<F> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, from: &[u8]) -> std::io::Result<()> {
        self.0.write_at(offset, from)
    }
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.0.punch(offset, len)
    }
    fn sync(&self) -> std::io::Result<()> {
        if (self.1)(&self.0) {
            self.0.sync()
        } else {
            Ok(())
        }
    }
    fn file(&self) -> Arc<std::fs::File> {
        self.0.file()
    }
}

#[test]
fn without_the_order_a_crash_does_damage() {
    let hurt = (0..10).any(|seed| {
        survives(seed, 4096, 6, |file| {
            Arc::new(Watched(file, |_: &CrashFile| false))
        })
        .is_err()
    });
    assert!(hurt, "this test sees nothing");
}

#[test]
fn a_full_disk_is_an_error_and_no_damage() {
    for budget in 0..60 {
        let file = CrashFile::new(&[]).unwrap();
        let options = CreateOptions {
            cluster_size: 512,
            ..CreateOptions::new(1 << 20)
        };
        create(Arc::new(Arc::clone(&file)), &options).unwrap();
        let image = opened(Arc::new(Arc::clone(&file)));
        image.write(0, &[1; 4096]).unwrap();
        image.flush().unwrap();
        file.set_budget(Some(budget));
        let mut failed = false;
        for number in 0..40 {
            failed |= image
                .write(number * 3 * 4096 + 512, &pattern(number, 5000 / 512 * 512))
                .is_err();
            failed |= number % 8 == 7 && image.flush().is_err();
        }
        let damaged = all(&opened(Arc::new(
            CrashFile::new(&file.crash(|| true)).unwrap(),
        )));
        assert_eq!(damaged[..512], [1; 512]);
        file.set_budget(None);
        // There is room again.
        image.write(0, &[2; 4096]).unwrap();
        image.flush().unwrap();
        let report = image.check(false).unwrap();
        assert_eq!((report.errors, failed), (0, budget < 60), "{report:?}");
        assert_eq!(
            all(&opened(Arc::new(
                CrashFile::new(&file.contents().unwrap()).unwrap()
            ))),
            all(&image)
        );
    }
}
