//! Known wounds of block backends, each a test by its advisory's name; and what else a hostile front end may try.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and makes its own small numbers"
)]

mod connections;
mod requests;
mod rings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::blkif::{BLKIF_OP_READ, BLKIF_OP_WRITE};
use cantle_blkback::image::{Disk, NullDisk, NullImage, RawDisk, RawImage, RawOptions};
use cantle_blkback::test_utils::{
    FrontOptions, LentPage, Random, Served, Transfer, World, copy_in,
};
use cantle_blkback::{BackendOptions, Protocol};
use tempfile::NamedTempFile;

const SECTORS: u64 = 4096;
const LAYOUTS: [Protocol; 2] = [Protocol::Native, Protocol::X86_32];

fn null() -> Box<NullImage> {
    Box::new(NullImage::new(SECTORS).unwrap())
}

fn null_disk() -> Arc<NullDisk> {
    Arc::new(NullDisk { sectors: SECTORS })
}

fn raw_file() -> (NamedTempFile, Box<RawImage>) {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(512 * SECTORS).unwrap();
    let image = RawImage::open(file.path(), &RawOptions::default()).unwrap();
    (file, Box::new(image))
}

fn raw_disk() -> (NamedTempFile, Arc<RawDisk>) {
    let (file, _) = raw_file();
    let disk = RawDisk::open(file.path(), &RawOptions::default()).unwrap();
    (file, Arc::new(disk))
}

/// A guest with memory for large requests, and a disk of up to four queues.
fn served(disk: Arc<dyn Disk>) -> (World, Served) {
    let world = World::with_memory(4096);
    let options = BackendOptions {
        max_queues: 4,
        ..BackendOptions::default()
    };
    let served = world.serve(world.backend_of(disk, options).unwrap());
    (world, served)
}

fn four() -> FrontOptions {
    FrontOptions {
        queues: 4,
        ..FrontOptions::default()
    }
}

fn read(sector: u64, bytes: usize) -> Transfer {
    Transfer {
        operation: BLKIF_OP_READ,
        sector,
        bytes,
    }
}

fn write(sector: u64, bytes: usize) -> Transfer {
    Transfer {
        operation: BLKIF_OP_WRITE,
        sector,
        bytes,
    }
}

/// Writes random words over a page until told to stop.
fn scribble(page: &LentPage, from: usize, stop: &AtomicBool, seed: u64) {
    let mut seed = seed;
    while !stop.load(Ordering::Relaxed) {
        seed = seed.wrapping_mul(31).wrapping_add(7);
        scribble_once(page, from, seed);
    }
}

/// Writes some random words over a page.
fn scribble_once(page: &LentPage, from: usize, seed: u64) {
    let mut random = Random::new(seed);
    for _ in 0..64 {
        let at = from + random.below((PAGE_SIZE - from) as u64 / 4) as usize * 4;
        // Small numbers look most like real fields.
        let word = match random.below(3) {
            0 => random.below(16),
            1 => random.below(0x1_0000),
            _ => random.below(u64::from(u32::MAX)),
        };
        copy_in(&page.memory, at, &(word as u32).to_ne_bytes());
    }
}
