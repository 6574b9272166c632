//! One disk by two ways, as a guest has it that boots from an emulated disk and goes on with a paravirtual one: nothing that the one way
//! has written may be missing on the other, before a reboot or after it.
//!
//! The known hazard: the emulated disk's pages stay in the host's cache while the other way goes past it (`O_DIRECT`), and after a reboot the emulated
//! one reads what was there long ago; or the cache's late write-back covers what was written since.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cantle_image::test_utils::Driven;
use cantle_image::{CacheMode, Caching, RawDisk, RawOptions};

const SIZE: u64 = 1 << 20;

fn disk(path: &Path, mode: CacheMode) -> Driven {
    let mut options = RawOptions::default().cache(mode);
    if options.caching == Caching::Direct {
        // On a file system that cannot, both ways are the same.
        options.caching = Caching::DirectIfPossible;
    }
    Driven::new(&RawDisk::open(path, &options).unwrap()).unwrap()
}

/// In a folder whose file system most likely can do `O_DIRECT`.
fn file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.as_file().set_len(SIZE).unwrap();
    file
}

#[test]
fn stale_reads_after_a_reboot() {
    let file = file();
    for first in CacheMode::ALL {
        for second in CacheMode::ALL {
            let (mut emulated, mut pv) = (disk(file.path(), first), disk(file.path(), second));
            // The firmware and the boot loader read by the emulated way: its pages are in the cache.
            let before = emulated.read(0, 65536).unwrap();
            assert_eq!(before.len(), 65536);
            // The kernel's driver takes over and writes past it, or through it.
            for round in 1..=3_u8 {
                pv.write(0, &[round; 4096]).unwrap();
                pv.write(16, &[round + 100; 512]).unwrap();
                pv.flush().unwrap();
                // A reboot: the emulated way again, and it must see what was written.
                assert_eq!(
                    emulated.read(0, 4096).unwrap(),
                    [round; 4096],
                    "{first} {second}"
                );
                assert_eq!(emulated.read(16, 512).unwrap(), [round + 100; 512]);
                // The other way round.
                emulated.write(8, &[round + 50; 4096]).unwrap();
                emulated.flush().unwrap();
                assert_eq!(
                    pv.read(8, 4096).unwrap(),
                    [round + 50; 4096],
                    "{first} {second}"
                );
            }
            // And a tool of the host's, which knows neither.
            let plain = OpenOptions::new().read(true).open(file.path()).unwrap();
            let mut bytes = [0; 4096];
            plain.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, [3; 4096]);
        }
    }
}

#[test]
fn late_writing_back_covers_nothing() {
    let file = file();
    let mut cached = disk(file.path(), CacheMode::Unsafe);
    let mut direct = disk(file.path(), CacheMode::None);
    // Sectors of one page, dirty in the cache, and its other sectors past the cache.
    for round in 0..50_u8 {
        cached
            .write(u64::from(round % 4) * 2, &[round; 512])
            .unwrap();
        direct
            .write(u64::from(round % 4) * 2 + 1, &[round + 100; 512])
            .unwrap();
    }
    file.as_file().sync_all().unwrap();
    for sector in 0..8_u64 {
        let last = (0..50_u8)
            .rev()
            .find(|round| u64::from(round % 4) == sector / 2)
            .unwrap();
        let byte = if sector % 2 == 0 { last } else { last + 100 };
        for queue in [&mut cached, &mut direct] {
            assert_eq!(
                queue.read(sector, 512).unwrap(),
                [byte; 512],
                "sector {sector}"
            );
        }
    }
}

#[test]
fn a_flush_that_succeeded_is_on_the_medium_in_each_mode_that_says_so() {
    let file = file();
    for mode in [
        CacheMode::Writeback,
        CacheMode::None,
        CacheMode::Writethrough,
    ] {
        let mut disk = disk(file.path(), mode);
        disk.write(0, &[9; 8192]).unwrap();
        if mode != CacheMode::Writethrough {
            disk.flush().unwrap();
        }
        // What is on the medium needs no writing back: nothing of the file's first pages is dirty. Where the page cache can be asked
        // (`cachestat`, Linux 6.5), it is.
        if let Some(dirty) = dirty_pages(file.path()) {
            assert_eq!(dirty, 0, "{mode}");
        }
    }
    // That the question can be answered otherwise.
    let mut disk = disk(file.path(), CacheMode::Unsafe);
    disk.write(0, &[9; 8192]).unwrap();
    disk.flush().unwrap();
    if let Some(dirty) = dirty_pages(file.path()) {
        assert_ne!(dirty, 0, "unsafe");
    }
}

/// Pages of the file that are dirty or being written, by `cachestat`; `None` where the host does not know it.
fn dirty_pages(path: &Path) -> Option<u64> {
    cachestat::dirty(path)
}

mod cachestat {
    // UNSAFETY: a system call that no safe wrapper has.
    #![expect(unsafe_code)]

    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    const SYS_CACHESTAT: libc::c_long = 451;

    pub(super) fn dirty(path: &Path) -> Option<u64> {
        let file = File::open(path).ok()?;
        let range = [0_u64; 2];
        // nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted.
        let mut stat = [0_u64; 5];
        // SAFETY: both structures are of 64-bit numbers, as many as the call reads and writes.
        let result = unsafe {
            libc::syscall(
                SYS_CACHESTAT,
                file.as_raw_fd(),
                range.as_ptr(),
                stat.as_mut_ptr(),
                0,
            )
        };
        (result == 0).then_some(stat[1] + stat[2])
    }
}
