//! A guest's request, from the private copy of its slot to checked values.
//!
//! [`Request::parse`] is given the copy that was taken out of shared memory, once, and nothing here ever looks at shared memory
//! again: what was checked is what is used (XSA-155).

use cantle_abi::GrantRef;
use cantle_abi::io::blkif::{
    BLKIF_DISCARD_SECURE, BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY, BLKIF_SECTOR_SIZE, BlkifRequest, BlkifRequestDiscard, BlkifRequestSegment,
};
use cantle_grant::GrantStatus;
use zerocopy::{FromBytes, IntoBytes};

use crate::image::{Geometry, ImageError, OutsidePages};

/// The last 512-byte sector of a page.
const LAST_SECTOR: u8 = 7;
const SECTOR: u16 = 512;
const _: () = assert!(SECTOR as usize == BLKIF_SECTOR_SIZE);

/// What a guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// From the disk into the segments.
    Read,
    /// From the segments onto the disk.
    Write,
    /// Bring what was written to the medium; then write the segments, where there are any.
    Flush,
    /// So many sectors are no longer wanted.
    Discard {
        /// How many sectors of 512 bytes.
        sectors: u64,
    },
}

/// A checked part of a granted page: 1 to 8 whole sectors within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagePart {
    /// The page. Whether it is granted is not known yet.
    pub gref: GrantRef,
    /// Where in the page, in bytes.
    pub offset: u16,
    /// How many bytes.
    pub len: u16,
}

/// A request that may be carried out, provided that its pages can be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The front end's own value for the response.
    pub id: u64,
    /// What to do.
    pub command: Command,
    /// The first sector on the disk, in units of 512 bytes.
    pub sector: u64,
    parts: [PagePart; BLKIF_MAX_SEGMENTS_PER_REQUEST],
    count: usize,
}

impl Request {
    /// Checks a request against a disk. Bounded by 11 segments.
    ///
    /// # Errors
    ///
    /// [`RequestError`]: what is to be answered. The response echoes the slot's `id` and `operation` in any case.
    pub fn parse(slot: &BlkifRequest, disk: &Geometry) -> Result<Self, RequestError> {
        let command = match slot.operation {
            BLKIF_OP_READ => Command::Read,
            BLKIF_OP_WRITE => Command::Write,
            BLKIF_OP_FLUSH_DISKCACHE => Command::Flush,
            BLKIF_OP_DISCARD => return Self::parse_discard(slot, disk),
            operation => return Err(RequestError::Unsupported { operation }),
        };
        let mut request = Self::empty(slot.id, command, slot.sector_number);
        let given = slot
            .seg
            .get(..usize::from(slot.nr_segments))
            .ok_or(RequestError::SegmentCount(slot.nr_segments))?;
        if given.is_empty() && command != Command::Flush {
            return Err(RequestError::SegmentCount(0));
        }
        let mut sectors = 0_u64;
        for (segment, part) in given.iter().zip(&mut request.parts) {
            *part = PagePart::parse(segment)?;
            sectors += u64::from(part.len / SECTOR);
        }
        request.count = given.len();
        if request.writes() && disk.read_only {
            return Err(RequestError::ReadOnly);
        }
        if sectors == 0 {
            // A flush alone has no place on the disk; what its sector says means nothing.
            request.sector = 0;
        } else {
            check_range(disk, request.sector, sectors)?;
        }
        Ok(request)
    }

    fn parse_discard(slot: &BlkifRequest, disk: &Geometry) -> Result<Self, RequestError> {
        // The same copied bytes by their other layout, which is shorter.
        let Ok((slot, _)) = BlkifRequestDiscard::read_from_prefix(slot.as_bytes()) else {
            return Err(RequestError::Unsupported {
                operation: slot.operation,
            });
        };
        if slot.flag & BLKIF_DISCARD_SECURE != 0 || !disk.discard {
            return Err(RequestError::Unsupported {
                operation: slot.operation,
            });
        }
        if disk.read_only {
            return Err(RequestError::ReadOnly);
        }
        let sectors = slot.nr_sectors;
        check_range(disk, slot.sector_number, sectors)?;
        let command = Command::Discard { sectors };
        Ok(Self::empty(slot.id, command, slot.sector_number))
    }

    fn empty(id: u64, command: Command, sector: u64) -> Self {
        let nothing = PagePart {
            gref: GrantRef(0),
            offset: 0,
            len: 0,
        };
        Self {
            id,
            command,
            sector,
            parts: [nothing; BLKIF_MAX_SEGMENTS_PER_REQUEST],
            count: 0,
        }
    }

    /// The parts of pages that it is about, in order; at most 11.
    #[must_use]
    pub fn parts(&self) -> &[PagePart] {
        self.parts.get(..self.count).unwrap_or_default()
    }

    /// Whether its segments go onto the disk.
    #[must_use]
    pub fn writes(&self) -> bool {
        match self.command {
            Command::Read => false,
            Command::Write | Command::Discard { .. } => true,
            Command::Flush => self.count != 0,
        }
    }
}

impl PagePart {
    fn parse(segment: &BlkifRequestSegment) -> Result<Self, RequestError> {
        let BlkifRequestSegment {
            gref,
            first_sect: first,
            last_sect: last,
            ..
        } = *segment;
        if first > last || last > LAST_SECTOR {
            return Err(RequestError::Segment { first, last });
        }
        Ok(Self {
            gref,
            offset: u16::from(first) * SECTOR,
            len: u16::from(last - first + 1) * SECTOR,
        })
    }
}

fn check_range(disk: &Geometry, sector: u64, count: u64) -> Result<(), RequestError> {
    if count != 0 && disk.contains(sector, count) {
        Ok(())
    } else {
        Err(RequestError::OutOfRange { sector, count })
    }
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// An operation that is unknown or was not offered: barrier, indirect, secure discard.
    #[error("operation {operation} is not supported")]
    Unsupported {
        /// `BLKIF_OP_*`, or anything.
        operation: u8,
    },
    /// More segments than a slot holds, or none for a transfer.
    #[error("{0} segments")]
    SegmentCount(u8),
    /// A segment that ends before it begins, or leaves its page.
    #[error("a segment from sector {first} to {last} of its page")]
    Segment {
        /// `first_sect`.
        first: u8,
        /// `last_sect`.
        last: u8,
    },
    /// Not on the disk, or nothing.
    #[error("{count} sectors from sector {sector} are not on the disk")]
    OutOfRange {
        /// The first sector.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// A write to a read-only disk.
    #[error("the disk is read-only")]
    ReadOnly,
    /// A page could not be mapped.
    #[error("grant {gref} cannot be mapped")]
    Grant {
        /// Which.
        gref: GrantRef,
        /// What Xen's interface calls it.
        source: GrantStatus,
    },
    /// A page was mapped and is smaller than a page.
    #[error("a mapped page is too small")]
    Page(#[from] OutsidePages),
    /// The image failed.
    #[error("the image failed")]
    Image(#[from] ImageError),
}

/// What a guest is told: the one place where an outcome becomes a `BLKIF_RSP_*`.
#[must_use]
pub fn status(outcome: Result<(), RequestError>) -> i16 {
    match outcome {
        Ok(()) => BLKIF_RSP_OKAY,
        Err(RequestError::Unsupported { .. } | RequestError::Image(ImageError::Unsupported)) => {
            BLKIF_RSP_EOPNOTSUPP
        }
        Err(_) => BLKIF_RSP_ERROR,
    }
}

#[cfg(test)]
mod tests;
