//! A format that makes room as it is written.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_image::{Extent, Format, Geometry, Mapped, SECTOR_SIZE, Storage};

/// The unit in which it makes room.
const BLOCK: u64 = 16384;

/// A raw disk of which only what was written is [`Extent::Data`], in blocks of 16 KiB, and all else [`Extent::Zero`].
pub struct SparseFormat<S> {
    storage: S,
    there: Mutex<There>,
}

struct There {
    sectors: u64,
    blocks: BTreeSet<u64>,
    /// How often each call was made: writes, discards.
    calls: (u64, u64),
}

impl<S: Storage> SparseFormat<S> {
    /// A disk of so many bytes, all zeroes.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn new(storage: S, bytes: u64) -> Result<Arc<Self>> {
        storage.set_len(bytes)?;
        let there = There {
            sectors: bytes / SECTOR_SIZE,
            blocks: BTreeSet::new(),
            calls: (0, 0),
        };
        Ok(Arc::new(Self {
            storage,
            there: Mutex::new(there),
        }))
    }

    fn there(&self) -> MutexGuard<'_, There> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of it are [`Extent::Data`].
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.there().blocks.len() as u64 * BLOCK
    }

    /// How often it was asked to write, and to discard.
    #[must_use]
    pub fn calls(&self) -> (u64, u64) {
        self.there().calls
    }
}

impl<S: Storage> Format for SparseFormat<S> {
    fn geometry(&self) -> Geometry {
        Geometry {
            discard: true,
            ..Geometry::new(self.there().sectors)
        }
    }

    fn files(&self) -> Vec<Arc<File>> {
        vec![self.storage.file()]
    }

    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        let there = self.there();
        let data = there.blocks.contains(&(offset / BLOCK));
        let mut end = (offset / BLOCK + 1) * BLOCK;
        while end < offset + len && there.blocks.contains(&(end / BLOCK)) == data {
            end += BLOCK;
        }
        let extent = if data {
            Extent::Data {
                file: 0,
                offset,
                writable: true,
            }
        } else {
            Extent::Zero
        };
        Ok(Mapped {
            extent,
            len: len.min(end - offset),
        })
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.storage.read_at(offset, into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.there().calls.0 += 1;
        self.storage.write_at(offset, from)?;
        let end = offset + from.len() as u64;
        self.there()
            .blocks
            .extend(offset / BLOCK..end.div_ceil(BLOCK));
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.there().calls.1 += 1;
        let blocks = offset.div_ceil(BLOCK)..(offset + len) / BLOCK;
        if !blocks.is_empty() {
            self.storage
                .punch(blocks.start * BLOCK, (blocks.end - blocks.start) * BLOCK)?;
            self.there().blocks.retain(|block| !blocks.contains(block));
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.storage.sync()
    }

    fn grow(&self, sectors: u64) -> Result<()> {
        self.storage.set_len(sectors * SECTOR_SIZE)?;
        self.there().sectors = sectors;
        Ok(())
    }
}

impl<S> std::fmt::Debug for SparseFormat<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SparseFormat").finish_non_exhaustive()
    }
}
