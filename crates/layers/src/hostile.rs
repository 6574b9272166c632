//! What a fuzz target calls with any bytes: the readers of this crate's files.

use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cantle_image::{Format, Geometry, Storage};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::{ChangedBlocks, MirrorState};

/// The disk that the files are said to be of.
const DISK: u64 = 1 << 20;

fn file(bytes: &[u8]) -> Result<Arc<File>> {
    let file = File::from(memfd_create("hostile", MemfdFlags::CLOEXEC)?);
    file.write_all_at(bytes, 0)?;
    Ok(Arc::new(file))
}

fn disk() -> Result<Arc<dyn Format>> {
    let storage = file(&[])?;
    Storage::set_len(&storage, DISK)?;
    Ok(Arc::new(cantle_image::RawFormat::new(
        storage,
        Geometry::new(DISK / 512),
    )))
}

/// A file of changed blocks: it is opened, asked, written to, saved, and opened again. A file that opens once, opens twice.
///
/// # Errors
///
/// The host's.
///
/// # Panics
///
/// Where it does not keep what it should.
pub fn changed_blocks(bytes: &[u8]) -> Result<()> {
    let file = file(bytes)?;
    let Ok(changed) = ChangedBlocks::open(disk()?, Box::new(Arc::clone(&file))) else {
        return Ok(());
    };
    for generation in changed.generations() {
        if let Ok(changes) = changed.changed_since(generation.id) {
            assert!(changes.bytes() <= DISK, "more changed than there is");
        }
    }
    if changed.write(0, &[1; 512]).is_err() || changed.save().is_err() {
        return Ok(());
    }
    drop(changed);
    let again = ChangedBlocks::open(disk()?, Box::new(file));
    let again = again.expect("what was saved can be opened");
    for generation in again.generations() {
        let changes = again
            .changed_since(generation.id)
            .expect("the file can be read");
        let first = changes.extents().next();
        assert!(
            first.is_some_and(|extent| extent.start == 0),
            "a write was lost"
        );
    }
    Ok(())
}

/// A mirror's state.
///
/// # Errors
///
/// The host's.
///
/// # Panics
///
/// Where it says that more is copied than there is.
pub fn mirror_state(bytes: &[u8]) -> Result<()> {
    if let Ok(state) = MirrorState::open(Box::new(file(bytes)?)) {
        let copied = state.copied(DISK)?;
        assert!(
            copied.count() <= state.region().count(DISK),
            "more copied than there is"
        );
    }
    let _ = crate::mirror::parse_state(bytes);
    Ok(())
}

/// A cache's header.
pub fn cache_header(bytes: &[u8]) {
    crate::cache::parse_any(bytes);
}

#[cfg(test)]
mod tests;
