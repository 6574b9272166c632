//! Hosts that crash, and hosts that are full.

use cantle_image::Format;
use cantle_image::test_utils::CrashFile;
use proptest::prelude::*;

use super::model::{Op, apply, ops};
use super::{open, qemu, read_all, sparse_on};
use crate::test_utils::Memory;

const SECTORS: u64 = 8 * 512 + 8 * 100 + 3;

fn fresh() -> Vec<u8> {
    let memory = Memory::default();
    sparse_on(&memory, SECTORS);
    memory.contents()
}

/// For each sector: all that it may hold after a crash, what was flushed first.
type May = Vec<Vec<[u8; 512]>>;

fn sectors(bytes: &[u8]) -> impl Iterator<Item = [u8; 512]> {
    bytes.chunks_exact(512).map(|c| c.try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_crash_loses_only_what_was_not_flushed(
        ops in prop::collection::vec(ops(), 1..40),
        kept in prop::collection::vec(any::<bool>(), 64..512),
    ) {
        let file = CrashFile::new(&fresh()).unwrap();
        let mut model = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        let disk = open(&file);
        let mut may: May = sectors(&model).map(|s| vec![s]).collect();
        for op in &ops {
            // Closing is for the end; here everybody crashes.
            let op = if matches!(op, Op::Reopen) { &Op::Flush } else { op };
            apply(&disk, &mut model, op);
            for (may, is) in may.iter_mut().zip(sectors(&model)) {
                if matches!(op, Op::Flush) {
                    *may = vec![is];
                } else if may.last() != Some(&is) {
                    may.push(is);
                }
                // A discard may have come to the medium, or a new grain without its bytes? No: only without its entry.
            }
        }
        let mut keep = kept.iter().cycle().copied();
        let medium = Memory::new(&file.crash(|| keep.next().unwrap()));
        let again = open(&medium);
        for (at, (may, is)) in may.iter().zip(sectors(&read_all(&again))).enumerate() {
            prop_assert!(may.contains(&is), "sector {at} has {} instead of one of {:?}", is[0], may.iter().map(|m| m[0]).collect::<Vec<_>>());
        }
        let report = again.check().unwrap();
        prop_assert_eq!((report.errors(), report.unequal_tables), (0, 0));
        // It goes on as if nothing had been.
        let mut model = read_all(&again);
        for op in ops.iter().take(8) {
            apply(&again, &mut model, op);
        }
        drop(again);
        let again = open(&medium);
        prop_assert!(again.repaired().is_none());
        prop_assert!(read_all(&again) == model);
    }

    #[test]
    fn a_full_host_leaves_a_valid_image(
        ops in prop::collection::vec(ops(), 1..30),
        budget in 0..60u64,
    ) {
        let file = CrashFile::new(&fresh()).unwrap();
        let mut model = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        let disk = open(&file);
        file.set_budget(Some(budget));
        let mut full = false;
        for op in &ops {
            let Op::Write { at, sectors, byte } = *op else { continue };
            let len = usize::try_from(sectors.min(SECTORS - at) * 512).unwrap();
            let from = usize::try_from(at * 512).unwrap();
            let result = disk.write(at * 512, &vec![byte; len]);
            match result {
                Ok(()) => model[from..from + len].fill(byte),
                Err(error) => {
                    prop_assert_eq!(error.raw_os_error(), Some(28));
                    full = true;
                    let mut now = vec![0; len];
                    disk.read(at * 512, &mut now).unwrap();
                    for (was, is) in model[from..from + len].chunks_mut(512).zip(now.chunks(512)) {
                        prop_assert!(is == was || is.iter().all(|b| *b == byte));
                        was.copy_from_slice(is);
                    }
                }
            }
        }
        let flushed = disk.flush();
        prop_assert!(full || flushed.is_ok() || budget < 60);
        file.set_budget(None);
        disk.flush().unwrap();
        prop_assert!(read_all(&disk) == model);
        prop_assert_eq!(disk.check().unwrap().errors(), 0);
        drop(disk);
        prop_assert!(read_all(&open(&file)) == model);
    }
}

#[test]
fn an_image_after_a_crash_is_valid_to_qemu_before_any_repair() {
    if !qemu::there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.vmdk");
    for seed in 0..12u64 {
        let file = CrashFile::new(&fresh()).unwrap();
        let disk = open(&file);
        for i in 0..40u64 {
            let at = (i * 7919 + seed * 104_729) % (SECTORS - 20);
            disk.write(at * 512, &[7; 20 * 512]).unwrap();
            if i % 13 == seed % 13 {
                disk.flush().unwrap();
            }
        }
        let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let medium = file.crash(|| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bits >> 63 == 0
        });
        std::fs::write(&path, medium).unwrap();
        qemu::check(&path);
    }
}

#[test]
fn a_flush_is_two_synchronisations_where_tables_changed_and_one_where_not() {
    let file = CrashFile::new(&fresh()).unwrap();
    let disk = open(&file);
    disk.write(0, &[1; 512]).unwrap();
    let marked = file.syncs();
    disk.flush().unwrap();
    assert_eq!(file.syncs() - marked, 2);
    disk.write(512, &[1; 512]).unwrap();
    disk.flush().unwrap();
    assert_eq!(file.syncs() - marked, 3);
}
