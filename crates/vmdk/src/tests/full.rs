//! Writes that fail half-way, and files that do not end where a grain does.

use std::fs::File;
use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cantle_image::{Format, Storage};
use rustix::io::Errno;

use super::{open, read_all, sparse_on};
use crate::test_utils::Memory;

/// A file whose host is full when told so: writes are done by half, and it may not even be cut.
#[derive(Clone, Default)]
struct Half {
    memory: Memory,
    full: Arc<AtomicBool>,
    uncut: Arc<AtomicBool>,
}

impl Storage for Half {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.memory.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, from: &[u8]) -> Result<()> {
        if !self.full.load(Ordering::Relaxed) {
            return self.memory.write_at(offset, from);
        }
        self.memory
            .write_at(offset, from.split_at(from.len() / 2).0)?;
        Err(Errno::NOSPC.into())
    }
    fn len(&self) -> Result<u64> {
        self.memory.len()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        if self.uncut.load(Ordering::Relaxed) {
            return Err(Errno::IO.into());
        }
        self.memory.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.memory.punch(offset, len)
    }
    fn sync(&self) -> Result<()> {
        self.memory.sync()
    }
    fn file(&self) -> Arc<File> {
        self.memory.file()
    }
}

#[test]
fn what_a_failed_write_left_does_not_show_in_a_later_grain() {
    for uncut in [false, true] {
        let half = Half::default();
        sparse_on(&half, 800);
        let disk = open(&half);
        disk.write(0, &[1; 4096]).unwrap();
        let len = half.len().unwrap();
        half.full.store(true, Ordering::Relaxed);
        half.uncut.store(uncut, Ordering::Relaxed);
        for _ in 0..3 {
            let error = disk.write(8192, &[2; 8192]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(28));
        }
        assert!(uncut || half.len().unwrap() == len, "nothing is left");
        half.full.store(false, Ordering::Relaxed);
        half.uncut.store(false, Ordering::Relaxed);
        disk.write(16384, &[3; 512]).unwrap();
        let mut model = vec![0; 800 * 512];
        model[..4096].fill(1);
        model[16384..16384 + 512].fill(3);
        assert!(read_all(&disk) == model);
        drop(disk);
        assert!(read_all(&open(&half)) == model);
    }
}

#[test]
fn grains_are_aligned_after_a_file_that_is_not() {
    let memory = Memory::default();
    sparse_on(&memory, 800);
    memory.write_at(memory.len().unwrap(), &[9; 700]).unwrap();
    let disk = open(&memory);
    disk.write(0, &[1; 512]).unwrap();
    let report = disk.check().unwrap();
    assert_eq!(
        (report.misaligned, report.allocated, report.errors()),
        (0, 1, 0)
    );
    let bytes = read_all(&disk);
    assert!(bytes[..512].iter().all(|b| *b == 1) && bytes[512..].iter().all(|b| *b == 0));
}
