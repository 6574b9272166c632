//! Sequences of calls, against plain memory.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cantle_image::{Extent, Format};
use proptest::prelude::*;

use super::{options, read, read_all, sectors};
use crate::{CreateOptions, Kind, OpenOptions, ParentDisk, Parents, Vhd};

#[derive(Clone, Debug)]
enum Act {
    Write(u64, u64),
    Discard(u64, u64),
    Flush,
    Reopen,
    Grow(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let range = || (0..super::SECTORS, 1..40_u64);
    prop_oneof![
        8 => range().prop_map(|(at, count)| Act::Write(at, count)),
        2 => range().prop_map(|(at, count)| Act::Discard(at, count)),
        1 => Just(Act::Flush),
        1 => Just(Act::Reopen),
        1 => (1..400_u64).prop_map(Act::Grow),
    ]
}

/// An image, what its disk is to be, and what is below it.
struct Subject {
    path: PathBuf,
    disk: Vhd,
    model: Vec<u8>,
    below: Vec<u8>,
    tag: u64,
}

fn bytes(sectors: u64) -> usize {
    usize::try_from(sectors * 512).unwrap()
}

fn opening(folder: &Path) -> OpenOptions {
    OpenOptions {
        parents: Parents::InFolder(folder.to_owned()),
        ..OpenOptions::default()
    }
}

impl Subject {
    fn new(path: PathBuf, options: &CreateOptions, below: Vec<u8>, tag: u64) -> Self {
        let disk = Vhd::create_path(&path, options).unwrap();
        let mut model = below.clone();
        model.resize(bytes(disk.geometry().sectors), 0);
        Self {
            path,
            disk,
            model,
            below,
            tag,
        }
    }

    fn run(&mut self, acts: &[Act]) {
        for act in acts {
            self.act(act);
        }
        self.compare();
    }

    fn act(&mut self, act: &Act) {
        let size = self.disk.geometry().sectors;
        let clip = |at: u64, count: u64| (at * 512, count.min(size - at));
        match *act {
            Act::Write(at, count) => {
                let (offset, count) = clip(at, count);
                self.tag += 1000;
                let new = sectors(self.tag, count);
                self.disk.write(offset, &new).unwrap();
                let at = bytes(at);
                self.model[at..at + new.len()].copy_from_slice(&new);
            }
            Act::Discard(at, count) => {
                let (offset, count) = clip(at, count);
                self.disk.discard(offset, count * 512).unwrap();
                let now = read(&self.disk, offset, bytes(count));
                for (index, new) in now.chunks(512).enumerate() {
                    let place = bytes(at) + index * 512;
                    let below = self.below.get(place..place + 512).unwrap_or(&[0; 512]);
                    let old = &self.model[place..place + 512];
                    assert!(new == old || new == [0; 512] || new == below);
                    self.model[place..place + 512].copy_from_slice(new);
                }
            }
            Act::Flush => self.disk.flush().unwrap(),
            Act::Reopen => {
                let folder = self.path.parent().unwrap();
                self.disk.flush().unwrap();
                self.disk = Vhd::open_path(&self.path, &opening(folder)).unwrap();
                assert!(self.disk.check().unwrap().is_clean());
            }
            Act::Grow(more) => {
                let grown = self.disk.grow(size + more);
                if self.below.len() > self.model.len() {
                    assert!(grown.is_err(), "the parent would be seen");
                } else {
                    grown.unwrap();
                    self.model.resize(bytes(size + more), 0);
                }
            }
        }
    }

    /// The disk is what it is to be, by `read` and by `map`.
    fn compare(&self) {
        assert!(read_all(&self.disk) == self.model);
        let files = self.disk.files();
        let (mut at, size) = (0, self.disk.geometry().bytes());
        while at < size {
            let mapped = self.disk.map(at, size - at).unwrap();
            let mut found = vec![0; usize::try_from(mapped.len).unwrap()];
            if let Extent::Data {
                file,
                offset,
                writable,
            } = mapped.extent
            {
                files[usize::from(file)]
                    .read_exact_at(&mut found, offset)
                    .unwrap();
                assert_eq!(writable, file == 0, "the parent's bytes are not written");
            }
            let place = usize::try_from(at).unwrap();
            assert!(found == self.model[place..place + found.len()], "at {at}");
            at += mapped.len;
        }
        let report = self.disk.check().unwrap();
        assert!(report.is_clean(), "{report:?}");
        // The table of before a growth is as large as these together.
        assert!(report.leaked < 16 << 10, "{report:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_disk_is_what_was_written(
        fixed in any::<bool>(),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let kind = if fixed { Kind::Fixed } else { Kind::Dynamic };
        let path = folder.path().join("disk.vhd");
        Subject::new(path, &options(kind), Vec::new(), 1).run(&acts);
    }

    #[test]
    fn three_on_top_of_each_other_are_what_was_written(
        base in prop::collection::vec(act(), 1..20),
        middle in prop::collection::vec(act(), 1..20),
        top in prop::collection::vec(act(), 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut below = Vec::new();
        let mut options = options(Kind::Dynamic);
        for (index, acts) in (1_u64..).zip([&base, &middle, &top]) {
            let path = folder.path().join(format!("{index}.vhd"));
            let mut subject = Subject::new(path, &options, below, index * 1_000_000);
            subject.run(acts);
            below = subject.model.clone();
            let path = subject.path.clone();
            drop(subject);
            let parents = Parents::InFolder(folder.path().to_owned());
            options = CreateOptions {
                block_size: super::BLOCK,
                ..CreateOptions::differencing(ParentDisk::vhd(&path, parents).unwrap())
            };
        }
    }
}

#[test]
fn a_large_disk_grows_out_of_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    let mut subject = Subject::new(path, &options(Kind::Dynamic), Vec::new(), 1);
    let acts = [
        Act::Write(0, 1),
        Act::Write(1190, 10),
        Act::Grow(3),
        Act::Grow(1),
        Act::Write(1200, 4),
        Act::Grow(30_000),
        Act::Write(1100, 2000),
        Act::Reopen,
        Act::Write(31_000, 100),
        Act::Reopen,
    ];
    subject.run(&acts);
    assert_eq!(subject.disk.info().sectors, 31_204);
}
