//! Whole images, against models and against others' tools.

mod chain;
mod crash;
mod damage;
mod hostile;
mod model;
mod qemu;
mod space;
mod threads;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cantle_image::{Format, Geometry, RawFormat};

use crate::{CreateOptions, Kind, ParentDisk};

/// A small disk with a table of more than one sector.
const SECTORS: u64 = 1200;
const BLOCK: u32 = 4096;

fn file() -> Arc<File> {
    Arc::new(tempfile::tempfile().unwrap())
}

fn options(kind: Kind) -> CreateOptions {
    CreateOptions {
        kind,
        block_size: BLOCK,
        ..CreateOptions::dynamic(SECTORS)
    }
}

/// A raw disk with these bytes.
fn raw(bytes: &[u8]) -> Arc<dyn Format> {
    let file = file();
    file.write_all_at(bytes, 0).unwrap();
    Arc::new(RawFormat::new(
        file,
        Geometry::new(bytes.len() as u64 / 512),
    ))
}

/// Any disk as a parent; the path is one that exists.
fn parent(disk: Arc<dyn Format>) -> ParentDisk {
    ParentDisk {
        path: "/dev/null".into(),
        uuid: [7; 16],
        modified: 0,
        disk,
    }
}

/// A sector that says which it is.
fn sector(tag: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&tag.to_le_bytes());
    }
    bytes
}

fn sectors(tag: u64, count: u64) -> Vec<u8> {
    (tag..tag + count).flat_map(sector).collect()
}

fn read(disk: &dyn Format, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    disk.read(offset, &mut bytes).unwrap();
    bytes
}

fn read_all(disk: &dyn Format) -> Vec<u8> {
    read(disk, 0, usize::try_from(disk.geometry().bytes()).unwrap())
}

/// The contents of a file.
fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Numbers for what proptest would be too slow for.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}
