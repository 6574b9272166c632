//! An image's tables, as they are to be on the medium.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

use crate::Kind;
use crate::bitmap::Bitmaps;
use crate::footer::Footer;
use crate::header::Header;
use crate::table::{Table, UNUSED};

/// What does not change while an image is open.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) kind: Kind,
    /// Whether it is on a block device, whose length stays and whose bytes are not zeroes where nothing was written.
    pub(crate) device: bool,
    /// Bytes of the disk in a block.
    pub(crate) block_size: u64,
    /// Bytes of the bitmap before them.
    pub(crate) bitmap_len: u64,
    pub(crate) lowest_bit_first: bool,
}

impl Layout {
    /// Bytes of a block in the file.
    pub(crate) fn span(&self) -> u64 {
        self.bitmap_len + self.block_size
    }
}

/// The tables, as they are to be.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) footer: Footer,
    /// Not for fixed images.
    pub(crate) header: Option<Header>,
    pub(crate) table: Table,
    pub(crate) bitmaps: Bitmaps,
    /// Bytes of a block in the file, its bitmap counted.
    pub(crate) span: u64,
    /// Where in the file no block can be.
    pub(crate) metadata: Vec<Range<u64>>,
    /// Where the footer at the end is: no block's bytes are there or behind it.
    pub(crate) end: u64,
    /// Where the next block may be.
    pub(crate) next: u64,
    /// Whether the table names places that are not in the file, or not for blocks. Were the file to grow over them, two blocks would
    /// share a place.
    pub(crate) damaged: bool,
}

/// What can be wrong with the place of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misplaced {
    BeyondEnd,
    OverMetadata,
    Truncated,
}

impl State {
    pub(crate) fn fixed(footer: Footer, end: u64) -> Self {
        Self {
            footer,
            header: None,
            table: Table::default(),
            bitmaps: Bitmaps::default(),
            span: 512,
            metadata: Vec::new(),
            end,
            next: end,
            damaged: false,
        }
    }

    /// Where in the file a block begins.
    pub(crate) fn block_at(&self, block: u32) -> Result<Option<u64>> {
        match self.table.get(block) {
            UNUSED => Ok(None),
            sector => {
                let at = u64::from(sector) * 512;
                if at >= self.end || self.is_over_metadata(at) {
                    return Err(Error::new(
                        ErrorKind::InvalidData,
                        "a block of the image is not there",
                    ));
                }
                Ok(Some(at))
            }
        }
    }

    /// Whether a block at `at` would have bytes of something else than blocks in it.
    fn is_over_metadata(&self, at: u64) -> bool {
        let (start, end) = (at, at.saturating_add(self.span));
        let overlaps = |range: &Range<u64>| range.start < end && start < range.end;
        self.metadata.iter().any(overlaps)
    }

    /// What is wrong with a block at `at`.
    pub(crate) fn misplaced(&self, at: u64) -> Option<Misplaced> {
        if at >= self.end {
            Some(Misplaced::BeyondEnd)
        } else if self.is_over_metadata(at) {
            Some(Misplaced::OverMetadata)
        } else if at + self.span > self.end {
            Some(Misplaced::Truncated)
        } else {
            None
        }
    }

    /// Finds out where the next block may be, and whether the table is damaged.
    pub(crate) fn find_room(&mut self, device: bool) {
        let headers = self
            .metadata
            .iter()
            .map(|range| range.end)
            .max()
            .unwrap_or(0);
        self.damaged = false;
        let mut next = headers;
        for &sector in self
            .table
            .blocks()
            .iter()
            .filter(|&&sector| sector != UNUSED)
        {
            let at = u64::from(sector) * 512;
            let end = at + self.span;
            if (at < headers || end > self.end) && self.misplaced(at).is_some() {
                self.damaged = true;
            } else {
                next = next.max(end);
            }
        }
        // Behind the footer a file has nothing yet, and so zeroes. What a crash has left before it is not looked at.
        self.next = if device { next } else { next.max(self.end) };
    }
}
