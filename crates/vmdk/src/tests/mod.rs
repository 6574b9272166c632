//! Tests of whole images.

mod crash;
mod disk;
mod full;
mod hostile;
mod model;
mod parts;
mod qemu;

use std::io::{ErrorKind, Result};

use cantle_image::{Format, Storage};

use crate::{Options, Vmdk, create_sparse_on};

const GRAIN: u32 = 4096;

/// A sparse image in small grains, so that little work makes many.
fn sparse_on<S: Storage>(storage: &S, sectors: u64) {
    create_sparse_on(storage, "d.vmdk", sectors, GRAIN).unwrap();
}

fn no_extents<S>(_: &str) -> Result<S> {
    Err(ErrorKind::NotFound.into())
}

fn open<S: Storage + Clone>(storage: &S) -> Vmdk<S> {
    Vmdk::open_on(storage.clone(), no_extents, &Options::default()).unwrap()
}

fn read_only() -> Options {
    Options {
        read_only: true,
        ..Options::default()
    }
}

fn read_all(disk: &impl Format) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(disk.geometry().bytes()).unwrap()];
    for (at, part) in (0..).step_by(65536).zip(bytes.chunks_mut(65536)) {
        disk.read(at, part).unwrap();
    }
    bytes
}
