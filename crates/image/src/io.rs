//! One request to an image, with the memory it is about.

// UNSAFETY: bytes are copied out of and into memory that others may write at any time.
#![expect(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use cantle_abi::SharedMemory;
use cantle_grant::{Mapping, Mappings};

use crate::{BufferId, SECTOR_SIZE};

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
        /// Whether nothing of them may be left on the medium.
        secure: bool,
    },
}

/// Memory that an [`Io`] holds on to.
pub enum Pages {
    /// A guest's page, unmapped when the [`Io`] lets go of it. Mapped for writing where the disk is read into it.
    Granted(Mapping),
    /// One of a guest's pages that were mapped together, by its number among them; all are unmapped when the last is let go of.
    Batch(Arc<Mappings>, usize),
    /// A guest's page that stays mapped between requests.
    Kept(Arc<Mapping>),
    /// Memory that others hold too, such as an image layer's own buffer.
    Shared(Arc<dyn SharedMemory + Send + Sync>),
}

impl Pages {
    /// Where the memory is and how long. Nothing for a number that no page has, or whose page was not mapped.
    fn memory(&self) -> Option<(NonNull<u8>, usize)> {
        let memory: &dyn SharedMemory = match self {
            Self::Granted(mapping) => mapping,
            Self::Batch(mappings, index) => mappings.get(*index).ok()?,
            Self::Kept(mapping) => &**mapping,
            Self::Shared(memory) => &**memory,
        };
        Some((memory.as_ptr(), memory.len()))
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Granted(_) => "Granted",
            Self::Batch(..) => "Batch",
            Self::Kept(_) => "Kept",
            Self::Shared(_) => "Shared",
        };
        write!(f, "{kind}({:?})", self.memory())
    }
}

/// A run of bytes in [`Pages`].
#[derive(Debug)]
pub struct Segment {
    /// Keeps the memory.
    _pages: Pages,
    start: NonNull<u8>,
    len: usize,
    buffer: Option<BufferId>,
}

// SAFETY: `start` is in the memory of `_pages`, which may go to another thread (see below), and is reached only by copies that tear at worst.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

/// What the two promises above stand on.
const _: () = {
    const fn may_go_to_any_thread<T: Send + Sync>() {}
    may_go_to_any_thread::<Pages>();
};

impl Segment {
    /// The first byte. It and the [`len`](Self::len) after it are inside the pages; others may write them at any time.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
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

    /// The number of its memory at the image, where that knows it.
    #[must_use]
    pub fn buffer(&self) -> Option<BufferId> {
        self.buffer
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

/// One request to a [`BlockImage`](crate::BlockImage). It owns its memory, and is used again after
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
        let outside = OutsidePages { offset, len };
        let (start, size) = pages.memory().ok_or(outside)?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= size);
        let bytes = self.bytes.checked_add(len).filter(|_| inside);
        self.bytes = bytes.ok_or(outside)?;
        self.segments.push(Segment {
            // SAFETY: the offset is within the memory, as was just seen.
            start: unsafe { start.add(offset) },
            _pages: pages,
            len,
            buffer: None,
        });
        Ok(())
    }

    /// As [`push`](Self::push), for memory that the image knows by a number.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    pub fn push_registered(
        &mut self,
        pages: Pages,
        offset: usize,
        len: usize,
        buffer: Option<BufferId>,
    ) -> Result<(), OutsidePages> {
        self.push(pages, offset, len)?;
        if let Some(segment) = self.segments.last_mut() {
            segment.buffer = buffer;
        }
        Ok(())
    }

    /// Copies bytes from `skip` on out of the memory, once; how many there were, at most `into.len()`.
    pub fn copy_out(&self, skip: usize, into: &mut [u8]) -> usize {
        let mut done = 0;
        for (at, len) in self.parts(skip, into.len()) {
            let Some(to) = into.get_mut(done..done + len) else {
                break;
            };
            // SAFETY: the part is inside memory that `self` keeps mapped. Others may write it meanwhile; nobody has a reference to
            // it, so the copy is torn at worst.
            unsafe { std::ptr::copy_nonoverlapping(at, to.as_mut_ptr(), len) };
            done += len;
        }
        done
    }

    /// Copies bytes into the memory from `skip` on; how many found room. Only for memory that may be written.
    pub fn copy_in(&self, skip: usize, from: &[u8]) -> usize {
        let mut done = 0;
        for (at, len) in self.parts(skip, from.len()) {
            let Some(bytes) = from.get(done..done + len) else {
                break;
            };
            // SAFETY: as in `copy_out`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, len) };
            done += len;
        }
        done
    }

    /// Fills `len` bytes of the memory from `skip` on with zeroes.
    pub fn zero(&self, skip: usize, len: usize) {
        for (at, len) in self.parts(skip, len) {
            // SAFETY: as in `copy_out`.
            unsafe { std::ptr::write_bytes(at, 0, len) };
        }
    }

    /// The memory of `len` bytes from `skip` on, as far as there is so much, by parts that are not empty.
    pub fn parts(&self, skip: usize, len: usize) -> impl Iterator<Item = (*mut u8, usize)> {
        let (mut skip, mut left) = (skip, len);
        self.segments.iter().filter_map(move |segment| {
            let passed = skip.min(segment.len());
            skip -= passed;
            let here = (segment.len() - passed).min(left);
            left -= here;
            (here != 0).then(|| (segment.as_ptr().wrapping_add(passed), here))
        })
    }

    /// Forgets by what numbers an image knew the memory: it goes to another image.
    pub fn forget_buffers(&mut self) {
        for segment in &mut self.segments {
            segment.buffer = None;
        }
    }

    /// Changes the token, once everything else is known.
    pub fn set_token(&mut self, token: u64) {
        self.token = token;
    }

    /// Makes it another operation on the same memory: a flush that carries data, and is over, becomes the write of that data.
    pub fn set_op(&mut self, op: IoOp) {
        self.op = op;
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
            IoOp::Discard { sectors, .. } => sectors,
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
