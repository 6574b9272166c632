//! Images whose maker means ill.

use std::sync::Arc;

use proptest::prelude::*;
use std::os::unix::fs::FileExt;

use super::{contents, file, options, parent, raw, sectors};
use crate::bytes::{be32, checksum, put};
use crate::test_utils::exercise;
use crate::{CreateOptions, Kind, OpenError, OpenOptions, Vhd};
use cantle_image::Format;

const HEADER: usize = 512;

fn image(kind: Kind) -> Vec<u8> {
    let file = file();
    let options = CreateOptions {
        parent: (kind == Kind::Differencing).then(|| parent(raw(&sectors(7, 20)))),
        ..options(kind)
    };
    let disk = Vhd::create(Arc::clone(&file), &options).unwrap();
    for at in [0, 1, 60, 1100] {
        disk.write(at * 512, &sectors(at, 5)).unwrap();
    }
    drop(disk);
    contents(&file)
}

/// Makes the checksums right again, so that what is wrong gets further.
fn seal(image: &mut [u8]) {
    let end = image.len() - 512;
    for (at, len, sum_at) in [(0, 512, 64), (end, 512, 64), (HEADER, 1024, 36)] {
        let Some(block) = image.get_mut(at..at + len) else {
            continue;
        };
        let sum = checksum(block, sum_at);
        if be32(block, 0) != 0 {
            put(block, sum_at, &sum.to_be_bytes());
        }
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        Just(1 << 63),
        0..4096_u64,
        (0..64_u32).prop_map(|shift| 1 << shift),
        any::<u64>(),
    ]
}

/// Where fields are, in the footer's copy, the header, the table, the batmap and the locators.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..90_usize,
        512..620_usize,
        1088..1280_usize,
        1536..2200_usize,
        2560..2600_usize,
        2600..12000_usize,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_change_of_fields_does_harm(
        kind in prop_oneof![Just(Kind::Fixed), Just(Kind::Dynamic), Just(Kind::Differencing)],
        changes in prop::collection::vec((place(), prop_oneof![Just(1_usize), Just(4), Just(8)], number()), 1..6),
        both in any::<bool>(),
        cut in prop_oneof![4 => Just(0_usize), 1 => 0..6000_usize],
    ) {
        let mut image = image(kind);
        let end = image.len() - 512;
        for (at, len, value) in changes {
            let value = value.to_be_bytes();
            put(&mut image, at, &value[8 - len..]);
            if both && at < 512 {
                put(&mut image, end + at, &value[8 - len..]);
            }
        }
        seal(&mut image);
        image.truncate(image.len() - cut.min(image.len()));
        exercise(&image);
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        exercise(&bytes);
    }
}

/// What becomes of a good image with one field changed, in both footers where it is one of theirs.
fn with(at: usize, bytes: &[u8]) -> Result<Vhd, OpenError> {
    let mut image = image(Kind::Dynamic);
    let end = image.len() - 512;
    put(&mut image, at, bytes);
    if at < 512 {
        put(&mut image, end + at, bytes);
    }
    seal(&mut image);
    let file = file();
    file.write_all_at(&image, 0).unwrap();
    Vhd::open(file, &OpenOptions::default())
}

#[test]
fn each_field_is_checked() {
    assert!(with(100, &[0]).is_ok());
    for (at, bytes) in [(0, &b"x"[..]), (12, &[0, 2]), (63, &[1]), (63, &[5])] {
        assert!(matches!(with(at, bytes), Err(OpenError::NotVhd)), "{at}");
    }
    let field = |at: usize, bytes: &[u8]| match with(at, bytes) {
        Err(OpenError::Invalid { field, .. }) => field,
        other => panic!("{at}: {other:?}"),
    };
    assert_eq!(field(16, &u64::MAX.to_be_bytes()), "header offset");
    assert_eq!(field(16, &0_u64.to_be_bytes()), "header offset");
    assert_eq!(field(16, &513_u64.to_be_bytes()), "header offset");
    assert_eq!(field(16, &1024_u64.to_be_bytes()), "header cookie");
    assert_eq!(field(48, &0_u64.to_be_bytes()), "disk size");
    assert_eq!(field(48, &u64::MAX.to_be_bytes()), "number of blocks");
    assert_eq!(field(HEADER, b"d"), "header cookie");
    assert_eq!(field(HEADER + 16, &u64::MAX.to_be_bytes()), "table offset");
    assert_eq!(
        field(HEADER + 16, &(1_u64 << 40).to_be_bytes()),
        "table offset"
    );
    assert_eq!(field(HEADER + 16, &1540_u64.to_be_bytes()), "table offset");
    assert_eq!(field(HEADER + 24, &[0, 3]), "header version");
    assert_eq!(field(HEADER + 28, &u32::MAX.to_be_bytes()), "table offset");
    assert_eq!(
        field(HEADER + 28, &149_u32.to_be_bytes()),
        "number of blocks"
    );
    for block in [0, 1, 511, 4097, 1 << 29, u32::MAX] {
        assert_eq!(field(HEADER + 32, &u32::to_be_bytes(block)), "block size");
    }
    assert_eq!(
        field(HEADER + 32, &512_u32.to_be_bytes()),
        "number of blocks"
    );
}

#[test]
fn a_wrong_sum_is_found() {
    let mut image = image(Kind::Dynamic);
    image[HEADER + 800] ^= 1;
    let file = file();
    file.write_all_at(&image, 0).unwrap();
    let opened = Vhd::open(file, &OpenOptions::default());
    assert!(matches!(
        opened,
        Err(OpenError::Invalid {
            field: "header checksum",
            ..
        })
    ));
}

#[test]
fn ranges_outside_the_disk_are_refused() {
    let file = file();
    let disk = Vhd::create(file, &options(Kind::Dynamic)).unwrap();
    let end = super::SECTORS * 512;
    for (offset, len) in [
        (end, 512),
        (end - 512, 1024),
        (u64::MAX - 511, 512),
        (1, 512),
        (0, 100),
    ] {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        assert!(disk.map(offset, len).is_err());
        assert!(disk.read(offset, &mut bytes).is_err());
        assert!(disk.write(offset, &bytes).is_err());
        assert!(disk.discard(offset, len).is_err());
    }
}
