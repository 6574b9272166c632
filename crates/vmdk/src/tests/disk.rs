//! A whole disk over the format, and several threads.

use std::sync::Arc;

use cantle_image::test_utils::Driven;
use cantle_image::{Format, FormatDisk, FormatOptions};

use super::{read_all, read_only};
use crate::test_utils::Memory;
use crate::{CreateKind, Options, Vmdk, create};

const SECTORS: u64 = 70 * 1024;

#[test]
fn a_disk_over_the_format_keeps_what_was_written_past_it() {
    for kind in [CreateKind::SPARSE, CreateKind::FLAT] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.vmdk");
        create(&path, SECTORS, kind).unwrap();
        let mut model = vec![0u8; usize::try_from(SECTORS * 512).unwrap()];
        let mut seed = 1u64;
        for _ in 0..2 {
            let format: Arc<dyn Format> = Arc::new(Vmdk::open(&path, &Options::default()).unwrap());
            let disk = FormatDisk::new(format, FormatOptions::default()).unwrap();
            let mut queue = Driven::new(&disk).unwrap();
            for _ in 0..300 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) % (SECTORS - 64);
                let len = usize::try_from((seed >> 20) % 64 + 1).unwrap() * 512;
                let from = usize::try_from(at * 512).unwrap();
                let byte = seed.to_be_bytes()[0];
                match byte % 8 {
                    0 => queue.flush().unwrap(),
                    1 => {
                        queue.discard(at, len as u64 / 512).unwrap();
                        let now = queue.read(at, len).unwrap();
                        for (was, is) in
                            model[from..from + len].chunks_mut(512).zip(now.chunks(512))
                        {
                            assert!(is == was || is.iter().all(|b| *b == 0));
                            was.copy_from_slice(is);
                        }
                    }
                    2..5 => assert!(queue.read(at, len).unwrap() == model[from..from + len]),
                    _ => {
                        queue.write(at, &vec![byte; len]).unwrap();
                        model[from..from + len].fill(byte);
                    }
                }
            }
            drop(queue);
            drop(disk);
        }
        let disk = Vmdk::open(&path, &Options::default()).unwrap();
        assert!(disk.repaired().is_none(), "it was closed");
        assert!(read_all(&disk) == model);
        assert_eq!(disk.check().unwrap().errors(), 0);
    }
}

#[test]
fn threads_write_flush_and_look_at_once() {
    let memory = Memory::default();
    super::sparse_on(&memory, 4 * 4096);
    let disk = super::open(&memory);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let disk = &disk;
            scope.spawn(move || {
                let byte = u8::try_from(thread + 1).unwrap();
                // Each the sectors of its own, so that all meet in each grain.
                for i in 0..4096 {
                    let at = (i * 4 + thread) * 512;
                    disk.write(at, &[byte; 512]).unwrap();
                    let mut back = [0; 512];
                    disk.read(at, &mut back).unwrap();
                    assert_eq!(back, [byte; 512]);
                    if i % 100 == 0 {
                        disk.flush().unwrap();
                        disk.map(0, 1 << 20).unwrap();
                    }
                }
            });
        }
    });
    let report = disk.check().unwrap();
    assert_eq!(
        (report.errors(), report.leaked, report.allocated),
        (0, 0, 2048)
    );
    drop(disk);
    let disk = Vmdk::open_on(memory, super::no_extents, &read_only()).unwrap();
    for (i, sector) in read_all(&disk).chunks(512).enumerate() {
        assert!(sector.iter().all(|b| usize::from(*b) == i % 4 + 1), "{i}");
    }
}
