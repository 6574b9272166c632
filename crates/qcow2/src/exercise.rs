//! For fuzz targets: arbitrary bytes as an image.
#![cfg(any(test, feature = "test-utils"))]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cantle_image::{Format, Storage};
use rustix::fs::MemfdFlags;

use crate::{Backing, Options, Qcow2};

/// Opens `bytes` as an image (the first byte chooses how) and does to it all that can be done: it may fail, and must neither panic, nor hang,
/// nor take memory or disk without measure. At most 1 MiB of them is looked at. The file is one in memory.
pub fn exercise(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let bytes = bytes.get(..1 << 20).unwrap_or(bytes);
    let Ok(fd) = rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC) else {
        return;
    };
    let file = Arc::new(File::from(fd));
    if file.write_all_at(bytes, 0).is_err() {
        return;
    }
    let storage: Arc<dyn Storage> = Arc::new(file);
    let options = Options {
        read_only: how & 1 != 0,
        backing: if how & 2 != 0 {
            Backing::Absent
        } else {
            Backing::Refuse
        },
        cache: 64 << 10,
    };
    let Ok(image) = Qcow2::open(storage, &options) else {
        return;
    };
    let size = image.geometry().bytes();
    let places = [0, 4096, 65_536, size / 2, size.saturating_sub(8192)].map(|at| at & !511);
    let mut buffer = vec![0; 8192];
    for at in places
        .into_iter()
        .filter(|at| at.saturating_add(8192) <= size)
    {
        let _ = image.map(at, size - at);
        let _ = image.read(at, &mut buffer);
        let _ = image.write(at, &buffer);
        let _ = image.write(at + 512, buffer.get(..512).unwrap_or_default());
        let _ = image.map(at, 8192);
    }
    let _ = image.flush();
    let _ = image.check(false);
    let _ = image.discard(0, size.min(1 << 20) & !511);
    let _ = image.flush();
    let _ = image.grow(size / 512 + 1);
    let _ = image.check(how & 4 != 0);
    let _ = image.read(
        0,
        buffer
            .get_mut(..usize::try_from(size.min(8192)).unwrap_or(0))
            .unwrap_or_default(),
    );
}
