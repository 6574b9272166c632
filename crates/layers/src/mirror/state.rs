//! What is still to be copied, on file.
//!
//! A header of 4096 bytes (see [`sealed`](crate::sealed)) with the magic `CANTLMIR` and the fields
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | region in bytes |
//! | 8 | the disk's size in bytes when the copy began |
//! | 4 | stage: 0 copying, 1 finished, 2 given up |
//!
//! and after it a byte for each region of the disk: 0xC0 says that the target's medium has what the source has; all else, also a byte
//! that is missing, that the region is to be copied. A 0xC0 is written after a flush of both; it is taken back, on the medium, before anything in
//! the region is written.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

use cantle_image::Storage;

use crate::Granularity;
use crate::bitmap::Bitmap;
use crate::sealed::{BadHeader, Fields, Reader};

const MAGIC: [u8; 8] = *b"CANTLMIR";
const HEADER: usize = 4096;
const COPIED: u8 = 0xc0;

/// How far a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not all is copied; the source is the disk.
    Copying,
    /// All is copied; the target is the disk.
    Finished,
    /// Given up; the source is the disk, and what was copied is of no use.
    GivenUp,
}

/// Why a copy cannot go on by a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It is no such file, or damaged: the copy begins anew.
    #[error("the mirror's state cannot be used")]
    Header(#[source] BadHeader),
    /// The host failed.
    #[error("the host failed")]
    Io(#[from] std::io::Error),
}

/// The file by which a copy goes on after a crash.
///
/// It is right for as long as nobody writes to the source but through the [`Mirror`](crate::Mirror) that has it, and nobody at all to the
/// target.
pub struct MirrorState {
    storage: Box<dyn Storage>,
    region: Granularity,
    disk: u64,
    stage: Stage,
}

impl MirrorState {
    /// A new file for a disk of so many bytes; whatever was in it is lost. A region has the size of a granule of a [`Mirror`](crate::Mirror), or is
    /// larger: a disk's first write to a region that is copied waits for this file's medium.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn create(storage: Box<dyn Storage>, disk: u64, region: Granularity) -> Result<Self> {
        // First of all nothing that could be taken for a valid file.
        storage.set_len(0)?;
        storage.sync()?;
        let mut state = Self {
            storage,
            region,
            disk,
            stage: Stage::Copying,
        };
        state.set_stage(Stage::Copying)?;
        Ok(state)
    }

    /// What is there.
    ///
    /// # Errors
    ///
    /// [`StateError`].
    pub fn open(storage: Box<dyn Storage>) -> std::result::Result<Self, StateError> {
        let mut header = [0; HEADER];
        match storage.read_at(0, &mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(StateError::Header(BadHeader::Magic));
            }
            read => read?,
        }
        let (region, disk, stage) = parse(&header).map_err(StateError::Header)?;
        Ok(Self {
            storage,
            region,
            disk,
            stage,
        })
    }

    /// How far the copy has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The disk's size in bytes when the copy began.
    #[must_use]
    pub fn disk(&self) -> u64 {
        self.disk
    }

    /// The unit in which it says what is to be copied.
    #[must_use]
    pub fn region(&self) -> Granularity {
        self.region
    }

    pub(super) fn set_stage(&mut self, stage: Stage) -> Result<()> {
        let stage_number = match stage {
            Stage::Copying => 0,
            Stage::Finished => 1,
            Stage::GivenUp => 2,
        };
        let mut fields = Fields::default();
        fields
            .u64(self.region.bytes())
            .u64(self.disk)
            .u32(stage_number);
        let header = fields.seal(MAGIC, HEADER).ok_or(ErrorKind::InvalidInput)?;
        self.storage.write_at(0, &header)?;
        self.storage.sync()?;
        self.stage = stage;
        Ok(())
    }

    /// The regions that are copied, of a disk of `disk` bytes. It reads no more than that disk needs.
    pub(crate) fn copied(&self, disk: u64) -> Result<Bitmap> {
        let regions = self.region.count(disk);
        let mut copied = Bitmap::new(regions, false);
        let there = self
            .storage
            .len()?
            .saturating_sub(HEADER as u64)
            .min(regions);
        let mut bytes = vec![0; 1 << 16];
        let mut at = 0;
        while at < there {
            let here = usize::try_from(there - at)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let (part, _) = bytes.split_at_mut(here);
            self.storage.read_at(HEADER as u64 + at, part)?;
            for (region, byte) in (at..).zip(part.iter()) {
                if *byte == COPIED {
                    copied.set(region..region + 1);
                }
            }
            at += here as u64;
        }
        Ok(copied)
    }

    /// Notes some regions; [`sync`](Self::sync) brings it to the medium.
    pub(super) fn note(&self, regions: Range<u64>, copied: bool) -> Result<()> {
        let byte = if copied { COPIED } else { 0 };
        let mut at = regions.start;
        while at < regions.end {
            let here = (regions.end - at).min(1 << 16);
            let bytes = vec![
                byte;
                usize::try_from(here)
                    .map_err(|_| Error::from(ErrorKind::InvalidInput))?
            ];
            self.storage.write_at(HEADER as u64 + at, &bytes)?;
            at += here;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.storage.sync()
    }
}

/// A header's fields.
pub(crate) fn parse(header: &[u8]) -> std::result::Result<(Granularity, u64, Stage), BadHeader> {
    let mut fields = Reader::open(MAGIC, header)?;
    let region = Granularity::new(fields.u64("region")?).map_err(|_| BadHeader::Field("region"))?;
    let disk = fields.u64("disk size")?;
    let stage = match fields.u32("stage")? {
        0 => Stage::Copying,
        1 => Stage::Finished,
        2 => Stage::GivenUp,
        _ => return Err(BadHeader::Field("stage")),
    };
    Ok((region, disk, stage))
}

impl std::fmt::Debug for MirrorState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MirrorState")
            .field("region", &self.region)
            .field("disk", &self.disk)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}
