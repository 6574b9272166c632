//! How much the tables cost: run with `--release -- --ignored --nocapture`.

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use cantle_image::{Extent, Format};

use super::made;
use crate::{CreateOptions, Preallocation};

type Work<'a> = Box<dyn FnMut(u64, &mut [u8]) + 'a>;

#[test]
#[ignore = "a measurement"]
fn maps_are_cheap() {
    let (file, image) = made(&CreateOptions {
        preallocation: Preallocation::Metadata,
        ..CreateOptions::new(256 << 20)
    });
    for chunk in 0..64 {
        image.write(chunk << 22, &vec![1; 4 << 20]).unwrap();
    }
    let mut state = 1u64;
    let places: Vec<u64> = (0..200_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % (256 << 8) * 4096
        })
        .collect();
    let mut buffer = vec![0; 4096];
    let time = |mut with: Work<'_>, buffer: &mut [u8]| {
        let start = Instant::now();
        places.iter().for_each(|at| with(*at, buffer));
        start.elapsed().as_nanos() / places.len() as u128
    };
    let raw = time(
        Box::new(|at, buffer| file.read_exact_at(buffer, at).unwrap()),
        &mut buffer,
    );
    let mapped = time(
        Box::new(|at, buffer| {
            let Extent::Data { offset, .. } = image.map(at, 4096).unwrap().extent else {
                panic!()
            };
            file.read_exact_at(buffer, offset).unwrap();
        }),
        &mut buffer,
    );
    let map = time(
        Box::new(|at, _| {
            black_box(image.map(at, 4096).unwrap());
        }),
        &mut buffer,
    );
    let long = time(
        Box::new(|at, _| {
            black_box(image.map(at, (256 << 20) - at).unwrap());
        }),
        &mut buffer,
    );
    eprintln!("ns: pread {raw}, map and pread {mapped}, map {map}, map to the end {long}");
}
