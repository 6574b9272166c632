//! The image as a [`Format`].

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_image::{Format, Geometry, Mapped, SECTOR_SIZE, Storage};

use crate::CheckReport;
use crate::header::Header;
use crate::shape::{Shape, read_padded};
use crate::tables::Tables;

/// A qcow2 image.
///
/// What lies in the image itself and is used once is [`Extent::Data`](cantle_image::Extent::Data) that may be written in place. What is
/// shared with an internal snapshot, and what is a parent's, is copied by the first [`write`](Format::write).
///
/// One lock guards the tables. It is not held while data that are there already are read or written; it is held while new clusters are
/// written, compressed ones are read, and while a [`flush`](Format::flush) that has tables to write waits for the medium.
pub struct Qcow2 {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) shape: Shape,
    pub(crate) header: Header,
    pub(crate) read_only: bool,
    pub(crate) parent: Option<Arc<dyn Format>>,
    /// In bytes.
    pub(crate) size: AtomicU64,
    pub(crate) tables: Mutex<Tables>,
}

impl Qcow2 {
    /// The header as it was when the image was opened.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What unallocated clusters read as, if not as zeroes.
    #[must_use]
    pub fn parent(&self) -> Option<&Arc<dyn Format>> {
        self.parent.as_ref()
    }

    /// Looks through all tables: see [`CheckReport`]. Nothing may use the image meanwhile; what was written is flushed first. With
    /// `repair`, counts are made what they should be, which frees what was lost.
    ///
    /// # Errors
    ///
    /// The host's; `InvalidData` where the image is so wrong that a look through it would not end; `ReadOnlyFilesystem` where it is to
    /// be repaired and may not be written to.
    pub fn check(&self, repair: bool) -> Result<CheckReport> {
        let mut tables = self.tables();
        if tables.refs.is_some() {
            tables.commit()?;
        } else if repair {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        crate::check::check(&mut tables, &self.header, repair)
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Reads what the parent has, where it has it and this disk is; zeroes elsewhere.
    pub(crate) fn read_parent(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let there = match &self.parent {
            Some(parent) => parent
                .geometry()
                .bytes()
                .min(self.len())
                .saturating_sub(offset),
            None => 0,
        };
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(into.len());
        let (head, tail) = into.split_at_mut(there);
        tail.fill(0);
        match &self.parent {
            Some(parent) if !head.is_empty() => parent.read(offset, head),
            _ => Ok(()),
        }
    }

    /// Whether the caller has kept to the disk.
    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let aligned = offset.is_multiple_of(SECTOR_SIZE) && len.is_multiple_of(SECTOR_SIZE);
        let end = offset.checked_add(len);
        if aligned && end.is_some_and(|end| end <= self.len()) {
            Ok(())
        } else {
            Err(ErrorKind::InvalidInput.into())
        }
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }
}

impl Format for Qcow2 {
    fn geometry(&self) -> Geometry {
        let cluster = u32::try_from(self.shape.cluster()).unwrap_or(65_536);
        Geometry {
            physical_sector_size: cluster.min(4096),
            read_only: self.read_only,
            discard: !self.read_only,
            discard_granularity: cluster,
            ..Geometry::new(self.len() / SECTOR_SIZE)
        }
    }

    fn files(&self) -> Vec<Arc<File>> {
        let mut files = vec![self.storage.file()];
        if let Some(parent) = &self.parent {
            files.extend(parent.files());
        }
        files
    }

    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        self.check_range(offset, len)?;
        self.do_map(offset, len)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.check_range(offset, into.len() as u64)?;
        self.do_read(offset, into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.check_writable()?;
        self.check_range(offset, from.len() as u64)?;
        self.do_write(offset, from)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        self.check_range(offset, len)?;
        self.do_discard(offset, len)
    }

    fn flush(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.tables().commit()
    }

    fn grow(&self, sectors: u64) -> Result<()> {
        self.check_writable()?;
        self.do_grow(sectors)
    }
}

impl Drop for Qcow2 {
    /// Whoever closes an image flushes it first, and hears of errors. This is for those who did not.
    fn drop(&mut self) {
        let tables = self
            .tables
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if !self.read_only
            && tables.is_dirty()
            && let Err(error) = tables.commit()
        {
            tracing::error!(%error, "what was written to a qcow2 image since its last flush is lost");
        }
    }
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2")
            .field("header", &self.header)
            .field("read_only", &self.read_only)
            .field("has_parent", &self.parent.is_some())
            .finish_non_exhaustive()
    }
}

impl Qcow2 {
    /// Reads from the image's own file; what is beyond its end is zeroes.
    pub(crate) fn read_file(&self, host: u64, into: &mut [u8]) -> Result<()> {
        read_padded(&*self.storage, host, into)
    }
}
