//! A disk as it was at an instant, while it goes on.

mod store;
mod view;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use cantle_image::{Extent, Format, Geometry, Mapped, Storage};
use rustix::fs::OFlags;

use crate::{Granularity, LiveDisk};
use store::Store;
pub use view::SnapshotView;

/// The layer that copies what is about to be written over, for a [`SnapshotView`].
///
/// The first write to a granule since the instant copies its old bytes into a store; after that the disk is written in place again. When the view is
/// gone, or the store takes no more, the layer does nothing. Discards of what is not copied are not passed on: they would have to be
/// copied, too.
pub struct Snapshot {
    store: Arc<Store>,
}

impl Snapshot {
    /// Begins a snapshot of `disk` at an instant at which no request is under way. `store` is empty; it takes up to as many bytes as the disk
    /// has. [`anonymous_store`] makes one that is gone with the view.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn start(
        disk: Arc<dyn LiveDisk>,
        store: Box<dyn Storage>,
        granularity: Granularity,
    ) -> Result<SnapshotView> {
        let mut storage = Some(store);
        let mut begun = None;
        let done = disk.exclusive(&mut |slot| {
            let storage = storage.take().ok_or(ErrorKind::InvalidInput)?;
            let store = Arc::new(Store::new(Arc::clone(slot), storage, granularity));
            let layer: Arc<dyn Format> = Arc::new(Self {
                store: Arc::clone(&store),
            });
            begun = Some((store, Arc::clone(&layer)));
            *slot = layer;
            Ok(())
        });
        let Some((store, layer)) = begun else {
            return Err(done.err().unwrap_or_else(|| ErrorKind::Other.into()));
        };
        let view = SnapshotView::new(disk, store, layer);
        done?;
        Ok(view)
    }
}

/// A file in `folder` that has no name, and so is gone with its last user, also after a crash.
///
/// # Errors
///
/// The host's.
pub fn anonymous_store(folder: &Path) -> Result<Box<dyn Storage>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let flags = OFlags::TMPFILE.bits().cast_signed();
    Ok(Box::new(Arc::new(
        options.custom_flags(flags).open(folder)?,
    )))
}

impl Format for Snapshot {
    fn geometry(&self) -> Geometry {
        self.store.inner.geometry()
    }

    fn files(&self) -> Vec<Arc<File>> {
        self.store.inner.files()
    }

    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        let mut mapped = self.store.inner.map(offset, len)?;
        if let Extent::Data { writable, .. } = &mut mapped.extent
            && *writable
            && offset < self.store.size
            && self.store.is_live()
        {
            let granularity = self.store.granularity;
            let (copied, end) = self
                .store
                .copied()
                .same(granularity.touched(offset, mapped.len));
            *writable = copied;
            let end = granularity.bytes_of(0..end, self.store.size).end;
            mapped.len = mapped.len.min(end.saturating_sub(offset).max(512));
        }
        Ok(mapped)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.store.inner.read(offset, into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.store.preserve(offset, from.len() as u64);
        self.store.inner.write(offset, from)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let store = &self.store;
        if !store.is_live() {
            return store.inner.discard(offset, len);
        }
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end.min(store.size) {
            let (copied, until) = store.copied().same(store.granularity.touched(at, end - at));
            let until = store
                .granularity
                .bytes_of(0..until, store.size)
                .end
                .min(end)
                .max(at + 1);
            if copied {
                store.inner.discard(at, until - at)?;
            }
            at = until;
        }
        if at < end {
            store.inner.discard(at, end - at)
        } else {
            Ok(())
        }
    }

    fn flush(&self) -> Result<()> {
        self.store.inner.flush()
    }

    fn grow(&self, sectors: u64) -> Result<()> {
        self.store.inner.grow(sectors)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("live", &self.store.is_live())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
