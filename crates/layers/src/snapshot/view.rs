//! What a backup reads.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Result};
use std::sync::Arc;

use cantle_image::{Extent, Format, Geometry, Mapped};

use super::store::Store;
use crate::LiveDisk;
use crate::live::take_off;

/// A disk as it was at the instant of [`Snapshot::start`](super::Snapshot::start): a [`Format`] that is read only.
///
/// Dropping it ends the copying, and takes the layer off the disk if no other is on top of it. Where one is, the layer stays and does nothing.
pub struct SnapshotView {
    disk: Arc<dyn LiveDisk>,
    store: Arc<Store>,
    layer: Arc<dyn Format>,
}

impl SnapshotView {
    pub(super) fn new(disk: Arc<dyn LiveDisk>, store: Arc<Store>, layer: Arc<dyn Format>) -> Self {
        Self { disk, store, layer }
    }

    /// Whether the store could not take what was written over. What was not copied before cannot be read any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.store.is_broken()
    }

    /// How many bytes are in the store, in whole granules.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.store
            .copied()
            .count()
            .saturating_mul(self.store.granularity.bytes())
    }
}

impl Format for SnapshotView {
    fn geometry(&self) -> Geometry {
        let now = self.store.inner.geometry();
        Geometry {
            sectors: self.store.size / cantle_image::SECTOR_SIZE,
            read_only: true,
            discard: false,
            secure_discard: false,
            ..now
        }
    }

    fn files(&self) -> Vec<Arc<File>> {
        vec![self.store.storage.file()]
    }

    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        let granularity = self.store.granularity;
        let (copied, end) = self.store.copied().same(granularity.touched(offset, len));
        let end = granularity.bytes_of(0..end, self.store.size).end;
        let len = len.min(end.saturating_sub(offset).max(512));
        let extent = if copied {
            Extent::Data {
                file: 0,
                offset,
                writable: false,
            }
        } else {
            Extent::Other
        };
        Ok(Mapped { extent, len })
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.store.read(offset, into)
    }

    fn write(&self, _offset: u64, _from: &[u8]) -> Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn discard(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

impl fmt::Debug for SnapshotView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotView")
            .field("copied", &self.copied())
            .field("broken", &self.is_broken())
            .finish_non_exhaustive()
    }
}

impl Drop for SnapshotView {
    fn drop(&mut self) {
        self.store.end();
        let layer = Arc::as_ptr(&self.layer).cast::<()>();
        if let Err(error) = take_off(&*self.disk, layer, &self.store.inner) {
            tracing::warn!(%error, "a snapshot's layer could not be taken off its disk; it does nothing any more");
        }
    }
}
