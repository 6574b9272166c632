//! A raw file as a format: what lies at one place lies at the same in the file.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

use super::open::{self, OpenError, RawOptions};
use crate::geometry::LiveGeometry;
use crate::{Extent, Format, Geometry, Mapped, SECTOR_SIZE, Storage};

/// A raw file or block device as a [`Format`]: for layers, for parents of other images, and for tools.
/// To serve nothing but a raw disk, [`RawDisk`](super::RawDisk) takes a shorter way.
pub struct RawFormat<S> {
    storage: S,
    geometry: LiveGeometry,
}

impl RawFormat<Arc<File>> {
    /// Opens a raw image. The caching of `options` is not looked at: calls go through the page cache.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(path: &Path, options: &RawOptions) -> std::result::Result<Self, OpenError> {
        let options = RawOptions {
            caching: super::Caching::Buffered,
            ..*options
        };
        let opened = open::open(path, &options)?;
        Ok(Self::new(Arc::new(opened.file), opened.geometry))
    }
}

impl<S: Storage> RawFormat<S> {
    /// A disk of this geometry on a file that is as long.
    #[must_use]
    pub fn new(storage: S, geometry: Geometry) -> Self {
        Self {
            storage,
            geometry: LiveGeometry::new(geometry),
        }
    }

    fn writable(&self) -> Result<()> {
        if self.geometry.now().read_only {
            Err(ErrorKind::ReadOnlyFilesystem.into())
        } else {
            Ok(())
        }
    }
}

impl<S: Storage> Format for RawFormat<S> {
    fn geometry(&self) -> Geometry {
        self.geometry.now()
    }

    fn files(&self) -> Vec<Arc<File>> {
        vec![self.storage.file()]
    }

    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        Ok(Mapped {
            extent: Extent::Data {
                file: 0,
                offset,
                writable: !self.geometry.now().read_only,
            },
            len,
        })
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.storage.read_at(offset, into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.writable()?;
        self.storage.write_at(offset, from)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.writable()?;
        self.storage.punch(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.storage.sync()
    }

    fn grow(&self, sectors: u64) -> Result<()> {
        self.writable()?;
        let wanted = sectors
            .checked_mul(SECTOR_SIZE)
            .ok_or(ErrorKind::InvalidInput)?;
        if self.storage.len()? < wanted {
            self.storage.set_len(wanted)?;
        }
        self.geometry.grow(sectors);
        Ok(())
    }
}

impl<S> std::fmt::Debug for RawFormat<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawFormat")
            .field("geometry", &self.geometry.now())
            .finish_non_exhaustive()
    }
}
