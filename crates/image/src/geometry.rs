//! What a disk is, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use cantle_abi::io::blkif::BLKIF_SECTOR_SIZE;

use crate::{ImageError, Io, IoOp};

/// Bytes in a sector, the unit of every sector number in this crate, whatever the disk's own sectors are.
pub const SECTOR_SIZE: u64 = BLKIF_SECTOR_SIZE as u64;

/// A disk's size and nature. It may grow while the image lives, where its medium does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The size in sectors of 512 bytes.
    pub sectors: u64,
    /// The smallest unit, in bytes, that the disk can be asked for (its logical sectors): 512 or 4096.
    pub sector_size: u32,
    /// The smallest unit, in bytes, that the medium writes without reading first. A hint to the guest; a power of two, at least
    /// [`sector_size`](Self::sector_size). With sectors of 512 bytes and 4096 here a disk is "512e", with 4096 in both "4Kn".
    pub physical_sector_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether [`IoOp::Discard`] may work.
    pub discard: bool,
    /// Whether [`IoOp::Discard`] may be asked to leave nothing that can be read.
    pub secure_discard: bool,
    /// The unit, in bytes, of which discards free whole ones. A hint; a power of two.
    pub discard_granularity: u32,
}

impl Geometry {
    /// A writable disk of 512-byte sectors that cannot discard.
    #[must_use]
    pub fn new(sectors: u64) -> Self {
        Self {
            sectors,
            sector_size: 512,
            physical_sector_size: 512,
            read_only: false,
            discard: false,
            secure_discard: false,
            discard_granularity: 4096,
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR_SIZE)
    }

    /// Whether `count` sectors from `sector` are on the disk.
    #[must_use]
    pub fn contains(&self, sector: u64, count: u64) -> bool {
        sector
            .checked_add(count)
            .is_some_and(|end| end <= self.sectors)
    }

    /// Whether a disk of this geometry may try `io`.
    ///
    /// # Errors
    ///
    /// [`ImageError::OutOfRange`], [`ImageError::ReadOnly`], [`ImageError::Misaligned`], and [`ImageError::Unsupported`] for a discard
    /// where there is none.
    pub fn check(&self, io: &Io) -> Result<(), ImageError> {
        let (sector, count) = (io.sector(), io.sectors());
        match io.op() {
            IoOp::Read | IoOp::Flush => {}
            IoOp::Write if self.read_only => return Err(ImageError::ReadOnly),
            IoOp::Discard { .. } if self.read_only => return Err(ImageError::ReadOnly),
            IoOp::Discard { secure, .. } => {
                if !self.discard || (secure && !self.secure_discard) {
                    return Err(ImageError::Unsupported);
                }
            }
            IoOp::Write => {}
        }
        if !self.contains(sector, count) {
            return Err(ImageError::OutOfRange { sector, count });
        }
        let unit = u64::from(self.sector_size) / SECTOR_SIZE;
        let whole = io.bytes().is_multiple_of(512) && sector.is_multiple_of(unit.max(1));
        if whole && count.is_multiple_of(unit.max(1)) {
            Ok(())
        } else {
            Err(ImageError::Misaligned { sector, count })
        }
    }
}

/// A geometry that many look at while somebody makes the disk larger.
#[derive(Debug)]
pub(crate) struct LiveGeometry {
    sectors: AtomicU64,
    rest: Geometry,
}

impl LiveGeometry {
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            sectors: AtomicU64::new(geometry.sectors),
            rest: geometry,
        }
    }

    pub(crate) fn now(&self) -> Geometry {
        Geometry {
            // Nothing else is told by it: what is on the disk is the medium's to say.
            sectors: self.sectors.load(Ordering::Relaxed),
            ..self.rest
        }
    }

    /// Takes a larger size; whether it is one.
    pub(crate) fn grow(&self, sectors: u64) -> bool {
        self.sectors.fetch_max(sectors, Ordering::Relaxed) < sectors
    }
}
