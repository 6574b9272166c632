//! Images that somebody has tampered with.

use cantle_image::{Format, Storage};
use proptest::prelude::*;

use super::{no_extents, open, read_all, sparse_on};
use crate::test_utils::{Memory, exercise};
use crate::{LayoutError, OpenError, Options, Vmdk};

const SECTORS: u64 = 8 * 512 + 8 * 100 + 3;
/// In an image of so many sectors: 2 tables; the directory at 21 + 1 + 8.
const COPY: usize = 22 * 512;
const DIRECTORY: usize = 30 * 512;
const TABLE: usize = 31 * 512;
const OVERHEAD: u32 = 40;

fn image() -> Vec<u8> {
    let memory = Memory::default();
    sparse_on(&memory, SECTORS);
    open(&memory).write(0, &[1; 8192]).unwrap();
    memory.contents()
}

fn put(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn open_bytes(image: &[u8]) -> Result<Vmdk<Memory>, OpenError> {
    Vmdk::open_on(Memory::new(image), no_extents, &Options::default())
}

#[test]
fn the_places_that_these_tests_tamper_with_are_right() {
    let image = image();
    let at = |place: usize| u32::from_le_bytes(image[place..place + 4].try_into().unwrap());
    assert_eq!((at(DIRECTORY), at(DIRECTORY + 4)), (31, 35));
    assert_eq!(
        (at(TABLE), at(TABLE + 4), at(COPY)),
        (OVERHEAD, OVERHEAD + 8, OVERHEAD)
    );
}

#[test]
fn a_grain_in_the_metadata_or_beyond_the_end_is_an_error_where_it_is_and_repaired() {
    for bad in [1, 21, 31, OVERHEAD - 1, 100_000, u32::MAX] {
        let mut image = image();
        put(&mut image, TABLE + 4, bad);
        let mut disk = open_bytes(&image).unwrap();
        assert_eq!(disk.map(0, 8192).unwrap().len, 4096);
        assert_eq!(
            disk.map(4096, 512).unwrap_err().kind(),
            std::io::ErrorKind::InvalidData
        );
        assert!(disk.read(4096, &mut [0; 512]).is_err());
        assert!(disk.write(4096, &[2; 512]).is_err());
        let report = disk.check().unwrap();
        assert_eq!((report.errors(), report.unequal_tables), (1, 1), "{bad}");
        disk.repair().unwrap();
        assert_eq!(disk.check().unwrap().errors(), 0);
        // The copy knew.
        assert!(read_all(&disk)[..8192].iter().all(|b| *b == 1));
    }
}

#[test]
fn an_unclean_image_is_repaired_when_it_is_opened_for_writing_only() {
    let mut image = image();
    image[72] = 1;
    put(&mut image, TABLE + 8, 1 << 30);
    put(&mut image, COPY + 8, 1 << 30);
    image.extend([9; 4096 * 3]);
    let memory = Memory::new(&image);
    let disk = Vmdk::open_on(memory.clone(), no_extents, &super::read_only()).unwrap();
    assert!(disk.repaired().is_none() && memory.contents() == image);
    assert!(disk.read(8192, &mut [0; 512]).is_err());
    let disk = open(&memory);
    let report = disk.repaired().unwrap();
    assert_eq!((report.beyond_end, report.leaked), (1, 3));
    assert_eq!(memory.len().unwrap(), u64::from(OVERHEAD + 16) * 512);
    let bytes = read_all(&disk);
    assert!(bytes[..8192].iter().all(|b| *b == 1) && bytes[8192..].iter().all(|b| *b == 0));
}

#[test]
fn a_grain_of_two_places_is_reported() {
    let mut image = image();
    put(&mut image, TABLE + 4, OVERHEAD);
    assert_eq!(open_bytes(&image).unwrap().check().unwrap().shared, 1);
    put(&mut image, TABLE + 4, OVERHEAD + 3);
    assert_eq!(open_bytes(&image).unwrap().check().unwrap().misaligned, 1);
}

#[test]
fn directories_and_tables_over_each_other_or_outside_are_refused() {
    let mut at = Vec::new();
    for (place, value) in [
        (DIRECTORY, 35),
        (DIRECTORY, 33),
        (DIRECTORY, 30),
        (DIRECTORY, 1),
        (DIRECTORY, 22),
        (DIRECTORY, u32::MAX),
        (DIRECTORY, 60_000),
        (56, 21),
        (56, 0),
        (48, 70_000),
        (60, u32::MAX),
        (36, u32::MAX),
    ] {
        let mut image = image();
        put(&mut image, place, value);
        let error = open_bytes(&image).unwrap_err();
        let OpenError::Sparse { source, .. } = error else {
            panic!("{place} {value}: {error}");
        };
        at.push(matches!(source, LayoutError::Overlap { .. }));
    }
    assert!(at.contains(&true) && at.contains(&false));
}

#[test]
fn missing_tables_read_as_zeroes_and_cannot_be_written() {
    let mut image = image();
    put(&mut image, DIRECTORY + 4, 0);
    assert!(matches!(open_bytes(&image), Err(OpenError::ReadOnly(_))));
    let disk = Vmdk::open_on(Memory::new(&image), no_extents, &super::read_only()).unwrap();
    assert!(read_all(&disk)[8192..].iter().all(|b| *b == 0));
}

#[test]
fn a_large_capacity_costs_no_memory_that_is_not_there() {
    let mut image = image();
    image[12..20].copy_from_slice(&(1u64 << 31).to_le_bytes());
    assert!(open_bytes(&image).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_tampered_image_breaks_nothing(
        changes in prop::collection::vec((prop_oneof![0..96usize, 512..900usize, COPY..COPY + 64, DIRECTORY - 4..DIRECTORY + 8, TABLE..TABLE + 64], any::<u8>()), 1..6),
        cut in prop::option::of(0..60_000usize),
        actions in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let mut image = image();
        for (at, byte) in changes {
            image[at] = byte;
        }
        image.truncate(cut.unwrap_or(usize::MAX));
        exercise(&image, &actions);
    }

    #[test]
    fn a_descriptor_of_any_extents_breaks_nothing(
        lines in prop::collection::vec("(RW|RDONLY|NOACCESS) [0-9]{1,4} (FLAT|SPARSE|ZERO) \"[ab/.]{1,2}\"( [0-9]{1,3})?", 0..5),
        kind in "(monolithicFlat|custom|vmfs|streamOptimized)",
        actions in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let mut text = format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"{kind}\"\n");
        for line in lines {
            text += &line;
            text += "\n";
        }
        let mut bytes = text.into_bytes();
        bytes.resize(100 * 512, 0);
        exercise(&bytes, &actions);
    }

    #[test]
    fn any_bytes_break_nothing(mut bytes in prop::collection::vec(any::<u8>(), 0..2048), actions in prop::collection::vec(any::<u8>(), 0..64)) {
        exercise(&bytes, &actions);
        bytes.splice(0..0, *b"KDMV\x01\0\0\0");
        exercise(&bytes, &actions);
    }
}
