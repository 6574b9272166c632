//! Sequences of operations against a plain array.

use cantle_image::format::read_mapped;
use cantle_image::{Extent, Format, Mapped, Storage};
use proptest::prelude::*;

use super::{open, read_all, sparse_on};
use crate::test_utils::Memory;
use crate::{CreateKind, Options, Vmdk, create};

/// More than one grain table, and a last grain that is not whole.
const SECTORS: u64 = 8 * 512 + 8 * 100 + 3;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Write { at: u64, sectors: u64, byte: u8 },
    Discard { at: u64, sectors: u64 },
    Flush,
    Reopen,
}

/// Near the tables' border, the disk's ends, and anywhere.
fn places() -> impl Strategy<Value = u64> {
    prop_oneof![0..SECTORS, 4060..4130u64, 0..24u64, SECTORS - 20..SECTORS]
}

pub(super) fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (places(), 1..40u64, 1u8..).prop_map(|(at, sectors, byte)| Op::Write { at, sectors, byte }),
        2 => (places(), 1..40u64).prop_map(|(at, sectors)| Op::Discard { at, sectors }),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

/// Applies to the image and, where it must, to the array. What was discarded is zeroes or as before.
pub(super) fn apply<S: Storage + Clone>(disk: &Vmdk<S>, model: &mut [u8], op: &Op) {
    let end = disk.geometry().sectors;
    match *op {
        Op::Write { at, sectors, byte } => {
            let len = usize::try_from(sectors.min(end - at) * 512).unwrap();
            // Each sector its own.
            let bytes: Vec<u8> = (0..len)
                .map(|i| byte.wrapping_add(u8::try_from(i / 512 % 7).unwrap()))
                .collect();
            disk.write(at * 512, &bytes).unwrap();
            let from = usize::try_from(at * 512).unwrap();
            model[from..from + len].copy_from_slice(&bytes);
        }
        Op::Discard { at, sectors } => {
            let len = sectors.min(end - at) * 512;
            disk.discard(at * 512, len).unwrap();
            let from = usize::try_from(at * 512).unwrap();
            let part = &mut model[from..from + usize::try_from(len).unwrap()];
            let mut now = vec![0; part.len()];
            disk.read(at * 512, &mut now).unwrap();
            for (was, is) in part.chunks_mut(512).zip(now.chunks(512)) {
                assert!(is == was || is.iter().all(|b| *b == 0));
                was.copy_from_slice(is);
            }
        }
        Op::Flush => disk.flush().unwrap(),
        Op::Reopen => disk.close().unwrap(),
    }
}

fn run<S: Storage + Clone>(ops: &[Op], mut reopen: impl FnMut() -> Vmdk<S>) -> Vec<u8> {
    let mut model = vec![0; usize::try_from(SECTORS * 512).unwrap()];
    let mut disk = Some(reopen());
    for op in ops {
        apply(disk.as_ref().unwrap(), &mut model, op);
        if matches!(op, Op::Reopen) {
            disk = None;
            disk = disk.or_else(|| Some(reopen()));
        }
    }
    let disk = disk.unwrap();
    assert!(disk.repaired().is_none());
    assert!(read_all(&disk) == model, "reads differ from the model");
    let report = disk.check().unwrap();
    assert_eq!(
        (
            report.errors(),
            report.leaked,
            report.unequal_tables,
            report.misaligned
        ),
        (0, 0, 0, 0)
    );
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_sparse_image_is_an_array(ops in prop::collection::vec(ops(), 1..60)) {
        let memory = Memory::default();
        sparse_on(&memory, SECTORS);
        let model = run(&ops, || open(&memory));
        // And once more, as it was left.
        prop_assert!(read_all(&open(&memory)) == model);
    }

    #[test]
    fn files_are_arrays_and_map_says_where(ops in prop::collection::vec(ops(), 1..30), flat in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.vmdk");
        let kind = if flat { CreateKind::FLAT } else { CreateKind::Sparse { grain: 4096 } };
        create(&path, SECTORS, kind).unwrap();
        let model = run(&ops, || Vmdk::open(&path, &Options::default()).unwrap());
        let disk = Vmdk::open(&path, &super::read_only()).unwrap();
        let mut mapped = vec![0; model.len()];
        read_mapped(&disk, 0, &mut mapped).unwrap();
        prop_assert!(mapped == model);
    }
}

#[test]
fn grains_that_lie_together_are_one_extent() {
    let memory = Memory::default();
    sparse_on(&memory, SECTORS);
    let disk = open(&memory);
    assert_eq!(
        disk.map(512, 1 << 20).unwrap(),
        Mapped {
            extent: Extent::Zero,
            len: 1 << 20
        }
    );
    disk.write(4096, &[1; 3 * 4096]).unwrap();
    let Mapped { extent, len } = disk.map(4096 + 512, 1 << 20).unwrap();
    assert_eq!(len, 3 * 4096 - 512);
    let Extent::Data {
        file: 0,
        offset,
        writable: true,
    } = extent
    else {
        panic!("{extent:?}");
    };
    // Another one elsewhere, then the one that comes before: not together.
    disk.write(0, &[1; 512]).unwrap();
    let before = disk.map(0, 1 << 20).unwrap();
    assert_eq!(before.len, 4096);
    assert_eq!(
        disk.map(4096, 512).unwrap().extent,
        Extent::Data {
            file: 0,
            offset: offset - 512,
            writable: true
        }
    );
    assert_eq!(disk.map(16384, 1 << 20).unwrap().extent, Extent::Zero);
}

#[test]
fn nothing_is_writable_before_the_first_write_has_marked_the_image() {
    let memory = Memory::default();
    sparse_on(&memory, SECTORS);
    open(&memory).write(0, &[1; 4096]).unwrap();
    let disk = open(&memory);
    let old = disk.cid();
    let clean = memory.contents();
    assert!(matches!(
        disk.map(0, 512).unwrap().extent,
        Extent::Data {
            writable: false,
            ..
        }
    ));
    disk.flush().unwrap();
    assert!(memory.contents() == clean, "nothing was written");
    disk.write(0, &[2; 512]).unwrap();
    assert!(matches!(
        disk.map(0, 512).unwrap().extent,
        Extent::Data { writable: true, .. }
    ));
    assert_ne!(disk.cid(), old);
    let now = disk.cid();
    assert_eq!(memory.contents()[72], 1);
    assert_eq!(
        Vmdk::open_on(memory.clone(), super::no_extents, &super::read_only())
            .unwrap()
            .cid(),
        now
    );
    disk.write(512, &[2; 512]).unwrap();
    assert_eq!(disk.cid(), now);
    drop(disk);
    assert_eq!(memory.contents()[72], 0);
}

#[test]
fn more_tables_than_are_kept_are_read_again() {
    // 6000 tables of 2 MiB; one grain in each.
    let memory = Memory::default();
    sparse_on(&memory, 6000 * 4096);
    let disk = open(&memory);
    for table in 0..6000u64 {
        disk.write(table * 4096 * 512, &table.to_le_bytes().repeat(64))
            .unwrap();
    }
    for table in 0..6000u64 {
        let mut bytes = [0; 512];
        disk.read(table * 4096 * 512, &mut bytes).unwrap();
        assert_eq!(bytes[..8], table.to_le_bytes());
    }
    let report = disk.check().unwrap();
    assert_eq!(
        (report.allocated, report.errors(), report.unequal_tables),
        (6000, 0, 0)
    );
}
