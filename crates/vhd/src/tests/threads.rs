//! Several threads write while others flush, and the host crashes at any moment of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use cantle_image::Format;
use cantle_image::test_utils::CrashFile;

use super::crash::Noted;
use super::{Random, options, parent, raw, read_all, sector, sectors};
use crate::{CreateOptions, Kind, OpenOptions, Parents, Vhd};

/// A sector's tag is so many times its version, and which sector it is.
const VERSION: u64 = 1 << 20;

struct Work {
    disk: Vhd,
    file: Arc<CrashFile>,
    /// The last version of each sector whose write is over.
    done: Vec<AtomicU64>,
    over: AtomicBool,
}

impl Work {
    /// Writes some of the sectors, those of this number and each second one after it, over and over.
    fn write(&self, first: u64) {
        let mut random = Random(first * 31 + 17);
        while !self.over.load(Ordering::Relaxed) {
            let at = random.below(super::SECTORS / 16) * 16 + first * 8;
            let count = (random.below(8) + 1).min(super::SECTORS - at);
            let at_index = usize::try_from(at).unwrap();
            let version = |at: usize| self.done[at].load(Ordering::Relaxed) / VERSION + 1;
            let tags: Vec<u64> = (at..at + count)
                .zip(at_index..)
                .map(|(sector, index)| version(index) * VERSION + sector)
                .collect();
            let bytes: Vec<u8> = tags.iter().copied().flat_map(sector).collect();
            self.disk.write(at * 512, &bytes).unwrap();
            for (index, tag) in (at_index..).zip(tags) {
                self.done[index].store(tag, Ordering::Release);
            }
        }
    }

    /// Flushes, crashes somewhere, and looks at what is left.
    fn crash(&self, opening: &OpenOptions, random: &mut Random) {
        let done: Vec<u64> = self
            .done
            .iter()
            .map(|tag| tag.load(Ordering::Acquire))
            .collect();
        self.disk.flush().unwrap();
        // While this thread is not in a flush another one may be.
        for _ in 0..random.below(2000) {
            std::hint::spin_loop();
        }
        let left = self.file.crash(|| random.below(2) == 0);
        check(&left, opening, &done);
    }
}

/// Whether an image has, of each sector, this version or a later one.
fn check(left: &[u8], opening: &OpenOptions, done: &[u64]) {
    let disk = Vhd::open(CrashFile::new(left).unwrap(), opening).unwrap();
    assert!(disk.check().unwrap().is_clean());
    for (at, (bytes, done)) in read_all(&disk).chunks(512).zip(done).enumerate() {
        let tag = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(bytes == sector(tag), "sector {at} is torn");
        let own = tag != 0 && tag % VERSION == at as u64;
        assert!(
            own || (done / VERSION == 0 && tag == 0),
            "sector {at} has {tag}"
        );
        assert!(
            tag >= *done,
            "sector {at}: {tag} is older than the flushed {done}"
        );
    }
}

fn crash_among_threads(kind: Kind) {
    // A version of the parent's own, which is below all others, and whose zeroth sector is not zero.
    let below = sectors(VERSION, super::SECTORS);
    let differencing = kind == Kind::Differencing;
    let opening = OpenOptions {
        parents: if differencing {
            Parents::Given(raw(&below))
        } else {
            Parents::Refuse
        },
        ..OpenOptions::default()
    };
    let first = |at| if differencing { VERSION + at } else { 0 };
    for seed in 1..12 {
        let options = CreateOptions {
            parent: differencing.then(|| parent(raw(&below))),
            ..options(kind)
        };
        let file = CrashFile::new(&[]).unwrap();
        let left = Arc::default();
        let storage = Noted {
            file: Arc::clone(&file),
            left: Arc::clone(&left),
        };
        let work = Work {
            disk: Vhd::create(storage, &options).unwrap(),
            file,
            done: (0..super::SECTORS)
                .map(|at| AtomicU64::new(first(at)))
                .collect(),
            over: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            let work = &work;
            scope.spawn(move || work.write(0));
            scope.spawn(move || work.write(1));
            scope.spawn(move || {
                while !work.over.load(Ordering::Relaxed) {
                    work.disk.flush().unwrap();
                }
            });
            let mut random = Random(seed * 982_451_653);
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..12 {
                    work.crash(&opening, &mut random);
                }
            }));
            work.over.store(true, Ordering::Relaxed);
            if let Err(failed) = looked {
                std::panic::resume_unwind(failed);
            }
        });
        // The first ones are of when the image was made.
        for left in left.lock().unwrap().iter().skip(20) {
            let first: Vec<u64> = (0..super::SECTORS).map(first).collect();
            check(left, &opening, &first);
        }
    }
}

#[test]
fn a_crash_among_threads_leaves_what_was_flushed_of_a_dynamic_image() {
    crash_among_threads(Kind::Dynamic);
}

#[test]
fn a_crash_among_threads_leaves_what_was_flushed_of_a_differencing_image() {
    crash_among_threads(Kind::Differencing);
}
