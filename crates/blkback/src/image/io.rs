//! One request to an image, with the memory it is about.

use std::fmt;
use std::sync::Arc;

use cantle_abi::SharedMemory;
use cantle_grant::Mapping;

use super::SECTOR_SIZE;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOp {
    /// From the disk into the segments.
    Read,
    /// From the segments onto the disk.
    Write,
    /// What was written before is to be on the medium. Segments are not looked at.
    Flush,
    /// The contents of so many sectors are no longer wanted; they read as anything until written again. No segments.
    Discard {
        /// How many sectors.
        sectors: u64,
    },
}

/// Memory that an [`Io`] holds on to.
pub enum Pages {
    /// A guest's page, unmapped when the [`Io`] lets go of it. Mapped for writing where the disk is read into it.
    Granted(Mapping),
    /// Memory that others hold too, such as an image layer's own buffer.
    Shared(Arc<dyn SharedMemory + Send + Sync>),
}

impl Pages {
    fn memory(&self) -> &dyn SharedMemory {
        match self {
            Self::Granted(mapping) => mapping,
            Self::Shared(memory) => &**memory,
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Granted(_) => "Granted",
            Self::Shared(_) => "Shared",
        };
        write!(
            f,
            "{kind}({:p}, {})",
            self.memory().as_ptr(),
            self.memory().len()
        )
    }
}

/// A run of bytes in [`Pages`].
#[derive(Debug)]
pub struct Segment {
    pages: Pages,
    offset: usize,
    len: usize,
}

impl Segment {
    /// The first byte. It and the [`len`](Self::len) after it are inside the pages; others may write them at any time.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        // Never past the end, by the check in `Io::push`; wrapping arithmetic spares an unsafe block here.
        self.pages
            .memory()
            .as_ptr()
            .as_ptr()
            .wrapping_add(self.offset)
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A segment that would leave its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {offset} are outside the pages")]
pub struct OutsidePages {
    /// The offset asked for.
    pub offset: usize,
    /// The length asked for.
    pub len: usize,
}

/// One request to a [`BlockImage`](super::BlockImage). It owns its memory, and is used again after
/// [`begin`](Self::begin), so that the hot path allocates nothing.
#[derive(Debug)]
pub struct Io {
    token: u64,
    op: IoOp,
    sector: u64,
    segments: Vec<Segment>,
    bytes: usize,
}

impl Default for Io {
    fn default() -> Self {
        Self::new()
    }
}

impl Io {
    /// A flush with token 0, to be made into something else by [`begin`](Self::begin).
    #[must_use]
    pub fn new() -> Self {
        Self {
            token: 0,
            op: IoOp::Flush,
            sector: 0,
            segments: Vec::new(),
            bytes: 0,
        }
    }

    /// Makes this a new request without segments. The memory held before is let go.
    pub fn begin(&mut self, token: u64, op: IoOp, sector: u64) {
        self.clear();
        self.token = token;
        self.op = op;
        self.sector = sector;
    }

    /// Lets go of the memory.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.bytes = 0;
    }

    /// Adds `len` bytes at `offset` of `pages`; for reads and writes, after the segments so far.
    ///
    /// # Errors
    ///
    /// [`OutsidePages`] where they are not inside the pages, or the whole request would be longer than an address can say.
    pub fn push(&mut self, pages: Pages, offset: usize, len: usize) -> Result<(), OutsidePages> {
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= pages.memory().len());
        let bytes = self.bytes.checked_add(len).filter(|_| inside);
        self.bytes = bytes.ok_or(OutsidePages { offset, len })?;
        self.segments.push(Segment { pages, offset, len });
        Ok(())
    }

    /// Changes the token, once everything else is known.
    pub fn set_token(&mut self, token: u64) {
        self.token = token;
    }

    /// Turns a flush that carries data, and is over, into the write of that data.
    pub(crate) fn flush_is_done(&mut self) {
        self.op = IoOp::Write;
    }

    /// The caller's own value, given back unchanged.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// What to do.
    #[must_use]
    pub fn op(&self) -> IoOp {
        self.op
    }

    /// Where on the disk, in sectors of 512 bytes.
    #[must_use]
    pub fn sector(&self) -> u64 {
        self.sector
    }

    /// How many sectors are touched: 0 for a flush.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        match self.op {
            IoOp::Read | IoOp::Write => (self.bytes as u64).div_ceil(SECTOR_SIZE),
            IoOp::Flush => 0,
            IoOp::Discard { sectors } => sectors,
        }
    }

    /// The memory, in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segments' lengths together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
