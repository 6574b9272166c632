//! An image that is open, and how its disk is read.

use std::fmt;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_image::{Extent, Format, Geometry, Mapped, Storage};

use crate::open::{Chain, open_file, open_within};
use crate::state::{Layout, State};
use crate::table::UNUSED;
use crate::{Kind, OpenError, OpenOptions};

/// So many blocks at most are looked at to find where an extent ends.
const BLOCKS_PER_MAP: u64 = 1 << 16;

/// A VHD image: see the [crate](crate).
pub struct Vhd {
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) parent: Option<Arc<dyn Format>>,
    pub(crate) read_only: bool,
    pub(crate) sectors: AtomicU64,
    pub(crate) layout: Layout,
    /// Taken for a moment, or while a new block is made.
    pub(crate) state: Mutex<State>,
    /// Held while metadata is on its way to the medium, and taken before `state`.
    pub(crate) flushing: Mutex<()>,
}

/// Where a part of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this image's file.
    Own(u64),
    /// In the parent, or nowhere.
    Below,
}

impl Vhd {
    /// Opens the image at `path`.
    ///
    /// Opened for writing, an image whose footer is missing at one end gets it from the other one; nothing else is repaired.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_path(path: &Path, options: &OpenOptions) -> std::result::Result<Self, OpenError> {
        let file = open_file(path, options.read_only)?;
        let mut chain = Chain::default();
        chain.enter(&file);
        open_within(Box::new(file), Some(path), options, &mut chain)
    }

    /// Opens the image that `storage` holds. It is in no folder, so only absolute names of parents are of use.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(
        storage: impl Storage + 'static,
        options: &OpenOptions,
    ) -> std::result::Result<Self, OpenError> {
        let mut chain = Chain::default();
        chain.enter(&storage.file());
        open_within(Box::new(storage), None, options, &mut chain)
    }

    /// The parent of a differencing image.
    #[must_use]
    pub fn parent(&self) -> Option<&Arc<dyn Format>> {
        self.parent.as_ref()
    }

    /// Whether the bytes at `offset` are this image's own, not its parent's or nowhere; and for how many of the `len` bytes that is so.
    ///
    /// # Errors
    ///
    /// As for [`Format::map`].
    pub fn own_extent(&self, offset: u64, len: u64) -> Result<(bool, u64)> {
        let (place, len) = self.locate(&mut self.state(), offset, len)?;
        Ok((matches!(place, Place::Own(_)), len))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed).saturating_mul(512)
    }

    /// Checks that a range is on the disk.
    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|&end| end <= self.bytes());
        let whole = offset.is_multiple_of(512) && len.is_multiple_of(512);
        match end {
            Some(_) if whole => Ok(()),
            _ => Err(Error::new(
                ErrorKind::InvalidInput,
                "not sectors of the disk",
            )),
        }
    }

    /// The block that `offset` is in, and where in it.
    pub(crate) fn block_of(&self, offset: u64) -> Result<(u32, u64)> {
        let block = u32::try_from(offset / self.layout.block_size);
        let block = block.map_err(|_| ErrorKind::InvalidInput)?;
        Ok((block, offset % self.layout.block_size))
    }

    /// Where the disk's bytes at `offset` are, and for how many of the `len` bytes they are there in one piece.
    pub(crate) fn locate(&self, state: &mut State, offset: u64, len: u64) -> Result<(Place, u64)> {
        self.check_range(offset, len)?;
        if self.layout.kind == Kind::Fixed {
            return Ok((Place::Own(offset), len));
        }
        let (block, within) = self.block_of(offset)?;
        let in_block = len.min(self.layout.block_size - within);
        let Some(at) = state.block_at(block)? else {
            return Ok((Place::Below, self.unused(state, block, in_block, len)));
        };
        let bitmap = state.bitmaps.get(&*self.storage, block, at)?;
        let (own, sectors) = bitmap.run(within / 512, in_block / 512);
        if !own {
            return Ok((Place::Below, sectors * 512));
        }
        let data = at + self.layout.bitmap_len + within;
        let there = state.end.saturating_sub(data).min(sectors * 512) / 512 * 512;
        if there == 0 {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "the image's file ends before its block does",
            ));
        }
        Ok((Place::Own(data), there))
    }

    /// For how much of `len` bytes there are no blocks, when there are none for the first `sure` of them, which end at `block`'s end.
    fn unused(&self, state: &State, block: u32, sure: u64, len: u64) -> u64 {
        let more = (len - sure)
            .div_ceil(self.layout.block_size)
            .min(BLOCKS_PER_MAP);
        let next = usize::try_from(block)
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let after = state.table.blocks().get(next..).unwrap_or_default();
        let more = usize::try_from(more).unwrap_or(0);
        let count = after
            .iter()
            .take(more)
            .take_while(|&&entry| entry == UNUSED)
            .count();
        (sure + count as u64 * self.layout.block_size).min(len)
    }

    /// What the parent has at `offset`.
    fn map_parent(&self, offset: u64, len: u64) -> Result<Mapped> {
        let zero = |len| Mapped {
            extent: Extent::Zero,
            len,
        };
        let Some(parent) = &self.parent else {
            return Ok(zero(len));
        };
        let there = parent.geometry().bytes().saturating_sub(offset).min(len);
        if there == 0 {
            return Ok(zero(len));
        }
        let Mapped { extent, len } = parent.map(offset, there)?;
        let extent = match extent {
            Extent::Data { file, offset, .. } => match file.checked_add(1) {
                Some(file) => Extent::Data {
                    file,
                    offset,
                    writable: false,
                },
                None => Extent::Other,
            },
            other => other,
        };
        Ok(Mapped {
            extent,
            len: len.min(there),
        })
    }

    fn read_parent(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let size = self
            .parent
            .as_ref()
            .map_or(0, |parent| parent.geometry().bytes());
        let there = size.saturating_sub(offset).min(into.len() as u64);
        let there = usize::try_from(there).unwrap_or(into.len());
        let (below, nothing) = into.split_at_mut(there);
        nothing.fill(0);
        match &self.parent {
            Some(parent) if !below.is_empty() => parent.read(offset, below),
            _ => Ok(()),
        }
    }
}

impl Format for Vhd {
    fn geometry(&self) -> Geometry {
        Geometry {
            physical_sector_size: 4096,
            read_only: self.read_only,
            discard: !self.read_only,
            ..Geometry::new(self.bytes() / 512)
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
        let (place, len) = self.locate(&mut self.state(), offset, len)?;
        match place {
            Place::Own(offset) => Ok(Mapped {
                extent: Extent::Data {
                    file: 0,
                    offset,
                    writable: !self.read_only,
                },
                len,
            }),
            Place::Below => self.map_parent(offset, len),
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let (place, len) = self.locate(&mut self.state(), at, rest.len() as u64)?;
            let here = usize::try_from(len).unwrap_or(rest.len()).min(rest.len());
            let (part, after) = rest.split_at_mut(here);
            match place {
                Place::Own(offset) => self.storage.read_at(offset, part)?,
                Place::Below => self.read_parent(at, part)?,
            }
            at += len;
            rest = after;
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.write_all(offset, from)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.flush_all()
    }

    fn grow(&self, sectors: u64) -> Result<()> {
        self.grow_to(sectors)
    }
}

impl Drop for Vhd {
    /// Writes the tables, so that an image which is let go of without a flush has all that was written. Errors are logged only.
    fn drop(&mut self) {
        if let Err(error) = self.flush_if_dirty() {
            tracing::error!(%error, "the tables of a VHD image could not be written when it was closed");
        }
    }
}

impl fmt::Debug for Vhd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vhd")
            .field("layout", &self.layout)
            .field("sectors", &self.sectors)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}
