//! Damaged images: what opens, what is reported, what is repaired.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cantle_image::Format;

use super::{contents, file, options, read, read_all, sector, sectors};
use crate::footer::{FOOTER, Footer, NewFooter};
use crate::{CreateOptions, Kind, OpenError, OpenOptions, Problem, Vhd};

const TABLE: u64 = 1536;

fn open(file: &Arc<File>) -> Result<Vhd, OpenError> {
    Vhd::open(Arc::clone(file), &OpenOptions::default())
}

fn open_as(file: &Arc<File>, kind: Kind) -> Vhd {
    let options = OpenOptions {
        expect: Some(kind),
        ..OpenOptions::default()
    };
    Vhd::open(Arc::clone(file), &options).unwrap()
}

/// An image with four blocks, the second and fourth written first.
fn image(kind: Kind) -> Arc<File> {
    let file = file();
    let disk = Vhd::create(Arc::clone(&file), &options(kind)).unwrap();
    for block in [1, 3, 0, 2] {
        disk.write(block * 4096, &sectors(100 * block + 1, 8))
            .unwrap();
    }
    file
}

fn expected() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..4)
        .flat_map(|block| sectors(100 * block + 1, 8))
        .collect();
    bytes.resize(usize::try_from(super::SECTORS * 512).unwrap(), 0);
    bytes
}

fn len(file: &File) -> u64 {
    file.metadata().unwrap().len()
}

/// What a guest that knows the format writes to be taken for a footer.
fn forged(kind: Kind) -> [u8; FOOTER] {
    let new = NewFooter {
        kind,
        sectors: 8,
        uuid: [9; 16],
        timestamp: 0,
    };
    *Footer::new(&new).raw()
}

#[test]
fn a_footer_is_written_again_from_its_copy() {
    let file = image(Kind::Dynamic);
    let good = contents(&file);
    file.set_len(len(&file) - 512).unwrap();
    let cut = contents(&file);
    let read_only = OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    };
    let disk = Vhd::open(Arc::clone(&file), &read_only).unwrap();
    assert!(read_all(&disk) == expected());
    assert_eq!(disk.check().unwrap().problems, [Problem::NoFooter]);
    assert_eq!(
        disk.write(0, &[0; 512]).unwrap_err().kind(),
        ErrorKind::ReadOnlyFilesystem
    );
    drop(disk);
    assert!(
        contents(&file) == cut,
        "nothing is written to what is opened for reading"
    );
    assert!(open(&file).unwrap().check().unwrap().is_clean());
    assert!(contents(&file) == good);
    file.write_all_at(&[0; 100], 0).unwrap();
    assert!(read_all(&open(&file).unwrap()) == expected());
    assert!(contents(&file) == good);
}

#[test]
fn without_any_footer_it_is_no_image() {
    let file = image(Kind::Dynamic);
    file.write_all_at(&[1], 70).unwrap();
    file.write_all_at(&[1], len(&file) - 512 + 70).unwrap();
    assert!(matches!(open(&file), Err(OpenError::NotVhd)));
    file.set_len(0).unwrap();
    assert!(matches!(open(&file), Err(OpenError::NotVhd)));
}

#[test]
fn a_guest_cannot_make_its_fixed_disk_another_kind() {
    let file = image(Kind::Fixed);
    for kind in [Kind::Dynamic, Kind::Differencing] {
        file.write_all_at(&forged(kind), 0).unwrap();
        assert!(matches!(open(&file), Err(OpenError::Ambiguous { .. })));
        assert_eq!(read(&open_as(&file, Kind::Fixed), 0, 512), forged(kind));
    }
    file.write_all_at(&forged(Kind::Fixed), 0).unwrap();
    assert_eq!(read(&open(&file).unwrap(), 0, 512), forged(Kind::Fixed));
}

#[test]
fn a_guest_cannot_make_its_dynamic_disk_another_kind() {
    for kind in [Kind::Fixed, Kind::Differencing] {
        let file = image(Kind::Dynamic);
        // The block that is last in the file ends with it; then the host crashes, and the footer is lost.
        open(&file)
            .unwrap()
            .write(3 * 4096 - 512, &forged(kind))
            .unwrap();
        file.set_len(len(&file) - 512).unwrap();
        assert!(matches!(open(&file), Err(OpenError::Ambiguous { .. })));
        let disk = open_as(&file, Kind::Dynamic);
        assert_eq!(read(&disk, 3 * 4096 - 512, 512), forged(kind));
        drop(disk);
        assert!(
            open(&file).unwrap().check().unwrap().is_clean(),
            "the footer is behind it again"
        );
    }
}

#[test]
fn a_block_that_is_not_there_is_an_error_until_it_is_repaired() {
    for entry in [0x00ff_ff00_u32, 0, 2, 3] {
        let file = image(Kind::Dynamic);
        file.write_all_at(&entry.to_be_bytes(), TABLE + 8).unwrap();
        let mut disk = open(&file).unwrap();
        assert_eq!(read(&disk, 3 * 4096, 4096), sectors(301, 8));
        disk.write(0, &sector(5)).unwrap();
        let mut bytes = [0; 512];
        assert_eq!(
            disk.read(2 * 4096, &mut bytes).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
        assert_eq!(
            disk.write(2 * 4096, &bytes).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
        let new = disk.write(9 * 4096, &bytes).unwrap_err();
        assert_eq!(
            new.kind(),
            ErrorKind::InvalidData,
            "the file would grow under the other block"
        );
        let [problem] = disk.check().unwrap().problems[..] else {
            panic!()
        };
        if entry > 100 {
            assert_eq!(problem, Problem::BeyondEnd { block: 2 });
        } else {
            assert_eq!(problem, Problem::OverMetadata { block: 2 });
        }
        assert_eq!(disk.repair().unwrap().errors, 1);
        assert!(disk.check().unwrap().is_clean());
        assert_eq!(read(&disk, 2 * 4096, 512), [0; 512]);
        disk.write(9 * 4096, &sector(8)).unwrap();
        drop(disk);
        let disk = open(&file).unwrap();
        assert!(disk.check().unwrap().is_clean());
        assert_eq!(read(&disk, 9 * 4096, 512), sector(8));
        assert_eq!(read(&disk, 4096, 4096), sectors(101, 8));
    }
}

#[test]
fn blocks_that_share_bytes_are_parted() {
    let file = image(Kind::Dynamic);
    let mut first = [0; 4];
    file.read_exact_at(&mut first, TABLE + 4).unwrap();
    // The first block is at, and the third one in the middle of, the second one.
    let within = u32::from_be_bytes(first) + 4;
    file.write_all_at(&first, TABLE).unwrap();
    file.write_all_at(&within.to_be_bytes(), TABLE + 8).unwrap();
    let mut disk = open(&file).unwrap();
    let problems = disk.check().unwrap().problems;
    assert!(
        problems.contains(&Problem::Overlap { block: 0, with: 1 }),
        "{problems:?}"
    );
    disk.repair().unwrap();
    assert!(disk.check().unwrap().is_clean());
    for block in [0, 1, 3] {
        let from = if block == 3 { 301 } else { 101 };
        assert_eq!(read(&disk, block * 4096, 4096), sectors(from, 8));
    }
    disk.write(0, &sectors(1, 8)).unwrap();
    drop(disk);
    let disk = open(&file).unwrap();
    assert!(disk.check().unwrap().is_clean());
    assert_eq!(read(&disk, 0, 4096), sectors(1, 8));
    assert_eq!(read(&disk, 4096, 4096), sectors(101, 8));
}

#[test]
fn of_a_block_that_is_cut_off_the_rest_is_read() {
    let file = image(Kind::Dynamic);
    // The third block is the last one: of its eight sectors, three are left.
    file.set_len(len(&file) - 512 - 5 * 512).unwrap();
    let mut disk = open(&file).unwrap();
    assert_eq!(read(&disk, 2 * 4096, 3 * 512), sectors(201, 3));
    let mut bytes = vec![0; 4096];
    assert_eq!(
        disk.read(2 * 4096, &mut bytes).unwrap_err().kind(),
        ErrorKind::InvalidData
    );
    assert_eq!(
        disk.check().unwrap().problems,
        [Problem::Truncated { block: 2 }]
    );
    disk.repair().unwrap();
    assert!(disk.check().unwrap().is_clean());
    let repaired = [sectors(201, 3), vec![0; 5 * 512]].concat();
    assert_eq!(read(&disk, 2 * 4096, 4096), repaired);
    drop(disk);
    assert!(open(&file).unwrap().check().unwrap().is_clean());
}

#[test]
fn what_a_crash_leaves_behind_is_counted_and_cut_off() {
    let file = image(Kind::Dynamic);
    let before = len(&file);
    file.write_all_at(&[0xaa; 1 << 20], before).unwrap();
    let mut disk = open(&file).unwrap();
    disk.write(7 * 4096, &sector(1)).unwrap();
    assert_eq!(
        read(&disk, 7 * 4096, 1024),
        [sector(1), [0; 512]].concat(),
        "not what was left there"
    );
    let report = disk.check().unwrap();
    assert!(report.is_clean() && report.leaked >= 1 << 20, "{report:?}");
    disk.repair().unwrap();
    drop(disk);
    let file = image(Kind::Dynamic);
    file.write_all_at(&[0xaa; 1 << 20], before).unwrap();
    open(&file).unwrap().repair().unwrap();
    assert_eq!(len(&file), before);
    assert!(read_all(&open(&file).unwrap()) == expected());
}

#[test]
fn a_footer_of_511_bytes_is_one() {
    for kind in [Kind::Fixed, Kind::Dynamic] {
        let file = image(kind);
        file.set_len(len(&file) - 1).unwrap();
        let disk = open(&file).unwrap();
        assert!(read_all(&disk) == expected());
        disk.write(8 * 4096, &sector(3)).unwrap();
        drop(disk);
        assert_eq!(read(&open(&file).unwrap(), 8 * 4096, 512), sector(3));
    }
}

#[test]
fn xens_mark_is_kept_and_changed() {
    let file = image(Kind::Dynamic);
    let disk = open(&file).unwrap();
    assert!(!disk.info().hidden);
    disk.set_hidden(true).unwrap();
    drop(disk);
    let disk = open(&file).unwrap();
    assert!(disk.info().hidden && disk.check().unwrap().is_clean());
}

#[test]
fn what_is_behind_a_disks_end_is_not_seen_when_it_grows() {
    let file = file();
    let options = CreateOptions {
        sectors: Some(super::SECTORS + 1),
        ..options(Kind::Dynamic)
    };
    let disk = Vhd::create(Arc::clone(&file), &options).unwrap();
    disk.write(super::SECTORS * 512, &sector(1)).unwrap();
    disk.flush().unwrap();
    // The last block is last in the file, and has room for seven more sectors.
    file.write_all_at(&[0xaa; 7 * 512], len(&file) - 8 * 512)
        .unwrap();
    disk.grow(super::SECTORS + 20).unwrap();
    let after = read(&disk, super::SECTORS * 512, 20 * 512);
    assert!(after == [&sector(1)[..], &[0; 19 * 512]].concat());
}
