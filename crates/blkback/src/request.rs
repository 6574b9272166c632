//! A guest's request, from the private copy of its slot to checked values.
//!
//! [`Request::parse`] is given the copies that were taken out of shared memory, once, and nothing here ever looks at shared memory
//! again: what was checked is what is used (XSA-155).

mod outcome;

use cantle_abi::GrantRef;
use cantle_abi::io::blkif::{
    BLKIF_DISCARD_SECURE, BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT,
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_SECTOR_SIZE, BlkifRequest,
    BlkifRequestSegment,
};

use crate::image::Geometry;
pub use outcome::{RequestError, status};

/// The last 512-byte sector of a page.
const LAST_SECTOR: u8 = 7;
const SECTOR: u16 = 512;
const _: () = assert!(SECTOR as usize == BLKIF_SECTOR_SIZE);

/// What a guest asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Command {
    /// From the disk into the segments.
    #[default]
    Read,
    /// From the segments onto the disk.
    Write,
    /// Bring what was written to the medium; then write the segments, where there are any.
    Flush,
    /// When all before is done: bring it to the medium, write the segments, and bring them there too.
    Barrier,
    /// So many sectors are no longer wanted.
    Discard {
        /// How many sectors of 512 bytes.
        sectors: u64,
        /// Whether nothing of them may be left on the medium.
        secure: bool,
    },
}

/// What was offered to the front end, beyond what the disk's geometry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Write barriers.
    pub barrier: bool,
    /// Discards, where the disk has them.
    pub discard: bool,
    /// The most segments of an indirect request; 0: none.
    pub indirect_segments: u16,
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

/// The pages that an indirect request's segments stand in, and how many segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indirect {
    /// The page; segments that fit in one are all that is offered.
    pub page: GrantRef,
    /// How many segments, 1 to 256.
    pub segments: u16,
}

impl Indirect {
    /// Where a request's segments stand, if they are not in its slot.
    ///
    /// # Errors
    ///
    /// [`RequestError::Unsupported`] where indirect requests are not offered; [`RequestError::SegmentCount`] for none, or more than were
    /// offered.
    pub fn parse(slot: &BlkifRequest, offered: &Offered) -> Result<Option<Self>, RequestError> {
        if slot.operation != BLKIF_OP_INDIRECT {
            return Ok(None);
        }
        if offered.indirect_segments == 0 {
            let operation = slot.operation;
            return Err(RequestError::Unsupported { operation });
        }
        let slot = slot.to_indirect();
        let segments = slot.nr_segments;
        if segments == 0 || segments > offered.indirect_segments {
            return Err(RequestError::SegmentCount(segments));
        }
        let [page, ..] = slot.indirect_grefs;
        Ok(Some(Self { page, segments }))
    }
}

/// A request that may be carried out, provided that its pages can be mapped. It is used again, so that the hot path allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The front end's own value for the response.
    pub id: u64,
    /// What to do.
    pub command: Command,
    /// The first sector on the disk, in units of 512 bytes.
    pub sector: u64,
    parts: Vec<PagePart>,
}

impl Request {
    /// Checks a request against a disk, and becomes it. `indirect` are the copies of the segments that [`Indirect`] named, where it did.
    /// Bounded by the segments.
    ///
    /// # Errors
    ///
    /// [`RequestError`]: what is to be answered. The response echoes the slot's `id` and [`answered_operation`] in any case.
    pub fn parse(
        &mut self,
        slot: &BlkifRequest,
        indirect: Option<&[BlkifRequestSegment]>,
        disk: &Geometry,
        offered: &Offered,
    ) -> Result<(), RequestError> {
        self.parts.clear();
        // It stands at the same place in all layouts of a slot.
        self.id = slot.id;
        let operation = slot.operation;
        if let Some(segments) = indirect {
            let slot = slot.to_indirect();
            self.command = match slot.indirect_op {
                BLKIF_OP_READ => Command::Read,
                BLKIF_OP_WRITE => Command::Write,
                operation => return Err(RequestError::Unsupported { operation }),
            };
            self.sector = slot.sector_number;
            return self.take(segments, disk);
        }
        self.command = match operation {
            BLKIF_OP_READ => Command::Read,
            BLKIF_OP_WRITE => Command::Write,
            BLKIF_OP_FLUSH_DISKCACHE => Command::Flush,
            BLKIF_OP_WRITE_BARRIER if offered.barrier => Command::Barrier,
            BLKIF_OP_DISCARD if offered.discard => return self.discard(slot, disk),
            operation => return Err(RequestError::Unsupported { operation }),
        };
        self.sector = slot.sector_number;
        let given = slot
            .seg
            .get(..usize::from(slot.nr_segments))
            .ok_or(RequestError::SegmentCount(slot.nr_segments.into()))?;
        self.take(given, disk)
    }

    /// Checks the segments and where they go.
    fn take(
        &mut self,
        segments: &[BlkifRequestSegment],
        disk: &Geometry,
    ) -> Result<(), RequestError> {
        let may_be_empty = matches!(self.command, Command::Flush | Command::Barrier);
        if segments.is_empty() && !may_be_empty {
            return Err(RequestError::SegmentCount(0));
        }
        // A power of two from 512 to 4096, as `Geometry` says.
        let unit = disk.sector_size.max(512);
        let mut sectors = 0_u64;
        for segment in segments {
            let part = PagePart::parse(segment)?;
            if !u32::from(part.offset).is_multiple_of(unit)
                || !u32::from(part.len).is_multiple_of(unit)
            {
                let (first, last) = (segment.first_sect, segment.last_sect);
                return Err(RequestError::Segment { first, last });
            }
            sectors += u64::from(part.len / SECTOR);
            self.parts.push(part);
        }
        if self.writes() && disk.read_only {
            return Err(RequestError::ReadOnly);
        }
        if sectors == 0 {
            // A flush alone has no place on the disk; what its sector says means nothing.
            self.sector = 0;
            return Ok(());
        }
        check_range(disk, self.sector, sectors)
    }

    fn discard(&mut self, slot: &BlkifRequest, disk: &Geometry) -> Result<(), RequestError> {
        // The same copied bytes by their other layout, which is shorter.
        let slot = slot.to_discard();
        let secure = slot.flag & BLKIF_DISCARD_SECURE != 0;
        if !disk.discard || (secure && !disk.secure_discard) {
            return Err(RequestError::Unsupported {
                operation: slot.operation,
            });
        }
        if disk.read_only {
            return Err(RequestError::ReadOnly);
        }
        self.sector = slot.sector_number;
        let sectors = slot.nr_sectors;
        check_range(disk, self.sector, sectors)?;
        self.command = Command::Discard { sectors, secure };
        Ok(())
    }

    /// The parts of pages that it is about, in order; at most 256.
    #[must_use]
    pub fn parts(&self) -> &[PagePart] {
        &self.parts
    }

    /// Whether its segments go onto the disk.
    #[must_use]
    pub fn writes(&self) -> bool {
        match self.command {
            Command::Read => false,
            Command::Write | Command::Discard { .. } => true,
            Command::Flush | Command::Barrier => !self.parts.is_empty(),
        }
    }
}

/// The operation that a response to this slot names: what was asked for, which an indirect request says in its own place. Linux gives a
/// disk up whose responses name another.
#[must_use]
pub fn answered_operation(slot: &BlkifRequest) -> u8 {
    match slot.operation {
        BLKIF_OP_INDIRECT => slot.to_indirect().indirect_op,
        operation => operation,
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
    let unit = u64::from(disk.sector_size.max(512)) / u64::from(SECTOR);
    if !sector.is_multiple_of(unit) || !count.is_multiple_of(unit) {
        return Err(RequestError::Misaligned { sector, count });
    }
    if count != 0 && disk.contains(sector, count) {
        Ok(())
    } else {
        Err(RequestError::OutOfRange { sector, count })
    }
}

#[cfg(test)]
mod tests;
