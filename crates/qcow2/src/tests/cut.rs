//! A host that crashes at each write, and at each sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use cantle_image::Format;
use cantle_image::test_utils::CrashFile;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::crash::Watched;
use super::{opened, pattern};
use crate::{CreateOptions, Qcow2, create};

/// Lets the host crash after each single write of what `work` does at the end, and before each sync, with some of what was not synchronised on the medium.
fn at_each_write(
    size: u64,
    step: usize,
    before: impl Fn(&Qcow2),
    work: impl Fn(&Qcow2) -> std::io::Result<()>,
) {
    for budget in (0u64..).step_by(step) {
        let file = CrashFile::new(&[]).unwrap();
        let options = CreateOptions {
            cluster_size: 512,
            ..CreateOptions::new(size)
        };
        create(Arc::new(Arc::clone(&file)), &options).unwrap();
        let watching = Arc::new(AtomicBool::new(false));
        let seed = [u8::try_from(budget % 251).unwrap(); 32];
        let look = move |file: &CrashFile| {
            let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
            for likely in [1, 5, 9] {
                let medium = file.crash(|| rng.next_u64() % 10 < likely);
                let image = opened(Arc::new(CrashFile::new(&medium).unwrap()));
                let report = image.check(false).unwrap();
                assert_eq!(report.errors, 0, "after {budget} writes: {report:?}");
                let mut bytes = vec![0; 64 << 10];
                image.read(0, &mut bytes).unwrap();
                assert!(bytes == pattern(1, 64 << 10));
            }
        };
        let watched = {
            let watching = Arc::clone(&watching);
            move |file: &CrashFile| {
                if watching.load(Relaxed) {
                    look(file);
                }
                true
            }
        };
        let image = opened(Arc::new(Watched(Arc::clone(&file), watched)));
        image.write(0, &pattern(1, 64 << 10)).unwrap();
        image.flush().unwrap();
        before(&image);
        file.set_budget(Some(budget));
        watching.store(true, Relaxed);
        let done = work(&image);
        look(&file);
        if done.is_ok() {
            return;
        }
    }
}

#[test]
fn each_write_of_a_flush_may_be_the_last() {
    // New blocks of counts, and new L2 tables.
    at_each_write(
        1 << 20,
        1,
        |image| image.write(64 << 10, &pattern(2, 500 << 10)).unwrap(),
        Format::flush,
    );
    // What is given back is used again.
    let twice = |image: &Qcow2| {
        image.write(64 << 10, &pattern(2, 200 << 10)).unwrap();
        image.flush().unwrap();
        image.discard(64 << 10, 200 << 10).unwrap();
    };
    at_each_write(1 << 20, 1, twice, |image| {
        image.flush()?;
        image.write(400 << 10, &pattern(3, 200 << 10))?;
        image.flush()
    });
    // The refcount table moves.
    at_each_write(
        12 << 20,
        41,
        |image| image.write(64 << 10, &pattern(2, 9 << 20)).unwrap(),
        Format::flush,
    );
    // The L1 table moves.
    at_each_write(
        1 << 20,
        1,
        |_| {},
        |image| {
            image.grow(40 << 11)?;
            image.write(39 << 20, &pattern(3, 100 << 10))?;
            image.flush()
        },
    );
}
