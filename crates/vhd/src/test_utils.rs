//! For fuzz targets: a way from any bytes through all that reads and writes images.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cantle_image::{Format, Geometry, RawFormat};
use rustix::fs::MemfdFlags;

use crate::{OpenOptions, Parents, SizeRule, Vhd};

/// So much of a disk is looked at, at its start and its end.
const PART: u64 = 1 << 16;
/// An image with more bytes than this in its blocks is not repaired here.
const REPAIRED: u64 = 4 << 20;
/// A parent's sectors.
const PARENT: u64 = 64;

/// Opens `image` as an image, in a file in memory, and maps, reads, writes, discards, checks, repairs and grows it, within bounds. It is to
/// come back, whatever the bytes are. That it reads back what it wrote is checked as well, where the image's check found nothing wrong.
///
/// # Panics
///
/// A bug was found. Or the host has no memory files.
pub fn exercise(image: &[u8]) {
    let parent = memory(&[0x5a; 64 * 512]);
    let parent: Arc<dyn Format> = Arc::new(RawFormat::new(parent, Geometry::new(PARENT)));
    for (read_only, size) in [(true, SizeRule::ByCreator), (false, SizeRule::Current)] {
        let options = OpenOptions {
            read_only,
            size,
            parents: Parents::Given(Arc::clone(&parent)),
            ..OpenOptions::default()
        };
        if let Ok(disk) = Vhd::open(memory(image), &options) {
            use_disk(disk);
        }
    }
}

fn memory(bytes: &[u8]) -> Arc<File> {
    let file =
        rustix::fs::memfd_create("vhd", MemfdFlags::CLOEXEC).expect("the host has memory files");
    let file = File::from(file);
    file.write_all_at(bytes, 0).expect("the host has memory");
    Arc::new(file)
}

fn use_disk(mut disk: Vhd) {
    let info = disk.info();
    let size = disk.geometry().bytes();
    let part = PART.min(size);
    let clean = disk.check().is_ok_and(|report| report.is_clean());
    for at in [0, (size - part) / 1024 * 512, size - part] {
        use_part(&disk, at, part, clean);
    }
    // An error is as good as a success here.
    let _ = (
        disk.grow(size / 512 + 1000),
        disk.set_hidden(true),
        disk.flush(),
    );
    let span = u64::from(info.block_size.unwrap_or(512)).saturating_add(512);
    if info.allocated_blocks.saturating_mul(span) <= REPAIRED && disk.repair().is_ok() {
        let after = disk.check().expect("memory can be read");
        assert!(after.is_clean(), "{after:?} after a repair");
    }
}

fn use_part(disk: &Vhd, offset: u64, len: u64, clean: bool) {
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let Ok(mapped) = disk.map(at, end - at) else {
            break;
        };
        assert!(mapped.len >= 512 && mapped.len.is_multiple_of(512) && at + mapped.len <= end);
        at += mapped.len;
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let _ = disk.read(offset, &mut bytes);
    let sector = [0xc3; 512];
    for at in [offset, end - 512] {
        if disk.write(at, &sector).is_ok() && clean {
            let mut read = [0; 512];
            disk.read(at, &mut read)
                .expect("what was written can be read");
            assert_eq!(read, sector, "at {at}");
        }
    }
    let _ = disk.discard(offset, len);
}
