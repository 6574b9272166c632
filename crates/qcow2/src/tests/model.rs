//! Random operations against plain bytes.

use std::sync::Arc;

use cantle_image::{Extent, Format};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{all, all_mapped, opened, pattern};
use crate::{Backing, CreateOptions, Options, Qcow2, create};

#[derive(Clone, Debug)]
enum Op {
    Write {
        at: u64,
        sectors: u64,
        seed: u64,
    },
    /// As the disk does it: into the file, where `map` says so.
    Direct {
        at: u64,
        sectors: u64,
        seed: u64,
    },
    Discard {
        at: u64,
        sectors: u64,
    },
    Flush,
    Reopen,
    Grow {
        sectors: u64,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let place = || (0u64..1000, 1u64..200);
    vec(
        prop_oneof![
            5 => (place(), any::<u64>()).prop_map(|((at, sectors), seed)| Op::Write { at, sectors, seed }),
            2 => (place(), any::<u64>()).prop_map(|((at, sectors), seed)| Op::Direct { at, sectors, seed }),
            2 => place().prop_map(|(at, sectors)| Op::Discard { at, sectors: sectors * 3 }),
            1 => Just(Op::Flush),
            1 => Just(Op::Reopen),
            1 => (1u64..100).prop_map(|sectors| Op::Grow { sectors }),
        ],
        1..40,
    )
}

struct World {
    file: Arc<std::fs::File>,
    image: Qcow2,
    parents: Vec<Arc<dyn Format>>,
    bytes: Vec<u8>,
    base: Vec<u8>,
}

impl World {
    /// A chain of so many parents; the lowest is the largest.
    fn new(cluster_size: u64, parents: u64) -> Self {
        let mut world = Self::made(cluster_size, 1100 - 100 * parents.min(1), None);
        for depth in 0..parents {
            for piece in 0..6 {
                let at = (piece * 190 + depth * 50) % 900 * 512;
                world
                    .image
                    .write(at, &pattern(depth * 10 + piece, 30 << 9))
                    .unwrap();
            }
            world.image.flush().unwrap();
            let below: Arc<dyn Format> = Arc::new(world.image);
            let mut chain = world.parents;
            chain.push(Arc::clone(&below));
            let bytes = all(&*below);
            world = Self::made(cluster_size, 970 - 37 * depth, Some(below));
            let len = world.bytes.len();
            world.bytes = bytes.get(..len).unwrap_or(&bytes).to_vec();
            world.bytes.resize(len, 0);
            world.parents = chain;
        }
        world.base = world.bytes.clone();
        world
    }

    fn made(cluster_size: u64, sectors: u64, parent: Option<Arc<dyn Format>>) -> Self {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let size = sectors * 512;
        create(
            Arc::new(Arc::clone(&file)),
            &CreateOptions {
                cluster_size,
                ..CreateOptions::new(size)
            },
        )
        .unwrap();
        let mut world = Self {
            image: opened(Arc::new(Arc::clone(&file))),
            file,
            parents: parent.into_iter().collect(),
            bytes: vec![0; usize::try_from(size).unwrap()],
            base: Vec::new(),
        };
        world.reopen();
        world
    }

    fn reopen(&mut self) {
        let backing = self.parents.last().map_or(Backing::Absent, |parent| {
            Backing::Parent(Arc::clone(parent))
        });
        let options = Options {
            backing,
            cache: 4096,
            ..Options::default()
        };
        self.image = Qcow2::open(Arc::new(Arc::clone(&self.file)), &options).unwrap();
    }

    fn range(&self, at: u64, sectors: u64) -> (u64, std::ops::Range<usize>) {
        let size = self.image.geometry().sectors;
        let at = at % size;
        let sectors = sectors.min(size - at);
        let start = usize::try_from(at * 512).unwrap();
        (
            at * 512,
            start..start + usize::try_from(sectors * 512).unwrap(),
        )
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { at, sectors, seed } => {
                let (at, range) = self.range(*at, *sectors);
                let bytes = pattern(*seed, range.len());
                self.image.write(at, &bytes).unwrap();
                self.bytes[range].copy_from_slice(&bytes);
            }
            Op::Direct { at, sectors, seed } => {
                let (at, range) = self.range(*at, *sectors);
                let mapped = self.image.map(at, range.len() as u64).unwrap();
                if let Extent::Data {
                    file: 0,
                    offset,
                    writable: true,
                } = mapped.extent
                {
                    let len = usize::try_from(mapped.len).unwrap();
                    let bytes = pattern(*seed, len);
                    std::os::unix::fs::FileExt::write_all_at(&*self.file, &bytes, offset).unwrap();
                    self.bytes[range.start..range.start + len].copy_from_slice(&bytes);
                }
            }
            Op::Discard { at, sectors } => {
                let (at, range) = self.range(*at, *sectors);
                let len = range.len() as u64;
                self.image.discard(at, len).unwrap();
                // Zeroes, the parent's, or what was: sector by sector.
                let mut now = vec![0; range.len()];
                self.image.read(at, &mut now).unwrap();
                for (number, sector) in now.chunks(512).enumerate() {
                    let place = range.start + number * 512..range.start + number * 512 + 512;
                    let zero = sector.iter().all(|byte| *byte == 0);
                    let parents = self.base.get(place.clone()) == Some(sector);
                    assert!(zero || parents || sector == &self.bytes[place]);
                }
                self.bytes[range].copy_from_slice(&now);
            }
            Op::Flush => self.image.flush().unwrap(),
            Op::Reopen => {
                self.image.flush().unwrap();
                self.reopen();
            }
            Op::Grow { sectors } => {
                let sectors = self.image.geometry().sectors + sectors;
                self.image.grow(sectors).unwrap();
                self.bytes
                    .resize(usize::try_from(sectors * 512).unwrap(), 0);
            }
        }
    }

    fn check(&self) {
        assert!(all(&self.image) == self.bytes);
        assert!(all_mapped(&self.image) == self.bytes);
        let report = self.image.check(false).unwrap();
        assert_eq!((report.errors, report.leaks), (0, 0), "{report:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn reads_what_was_written(ops in ops(), bits in prop::sample::select(vec![9u32, 10, 12, 16, 21]), parents in 0u64..3) {
        let parents = if bits == 21 { parents.min(1) } else { parents };
        let mut world = World::new(1 << bits, parents);
        world.check();
        for op in &ops {
            world.apply(op);
        }
        world.check();
        world.apply(&Op::Reopen);
        world.check();
        if super::qemu() {
            let path = tempfile::NamedTempFile::new().unwrap();
            let mut from = world.file.try_clone().unwrap();
            std::io::Seek::rewind(&mut from).unwrap();
            std::io::copy(&mut from, &mut path.as_file()).unwrap();
            super::qemu_fine(path.path());
        }
    }
}
