//! A disk without data that looks closely at what it is given.

use std::collections::HashMap;
use std::io::Result;
use std::os::fd::BorrowedFd;

use cantle_abi::SharedMemory;
use cantle_blkback::image::{BlockImage, BufferId, Completion, Disk, Geometry, Io, IoOp, NullDisk};

use crate::scribble;

/// The disk whose queues are [`TouchImage`]s over those of another one, which has no data either.
pub(super) struct TouchDisk<D> {
    pub(super) inner: D,
    /// Nothing may ever be written to it.
    pub(super) is_cd: bool,
}

impl<D: Disk> Disk for TouchDisk<D> {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn open_queue(&self) -> Result<Box<dyn BlockImage>> {
        Ok(Box::new(TouchImage {
            inner: self.inner.open_queue()?,
            is_cd: self.is_cd,
            known: HashMap::new(),
            next: 0,
        }))
    }
}

/// A disk of so many sectors.
pub(super) fn disk(sectors: u64, is_cd: bool) -> TouchDisk<NullDisk> {
    TouchDisk {
        inner: NullDisk { sectors },
        is_cd,
    }
}

/// An image that touches every byte range it is given at both ends.
struct TouchImage {
    inner: Box<dyn BlockImage>,
    is_cd: bool,
    /// Registered memory: where it is.
    known: HashMap<BufferId, usize>,
    next: u16,
}

impl TouchImage {
    fn look(&self, io: &Io) {
        let checked = self.geometry().check(io);
        assert_eq!(checked, Ok(()), "the back end lets {io:?} pass");
        let writes = !matches!(io.op(), IoOp::Read | IoOp::Flush);
        assert!(!(writes && self.is_cd), "a CD is written: {io:?}");
        if matches!(io.op(), IoOp::Read | IoOp::Write) {
            let mut bytes = 0;
            for segment in io.segments() {
                scribble::touch(segment, io.op() == IoOp::Read);
                bytes += segment.len() as u64;
            }
            assert_eq!(bytes, io.sectors() * 512, "the segments are the request");
        }
        self.look_at_numbers(io);
    }

    /// A number is its memory's for as long as a request names it.
    fn look_at_numbers(&self, io: &Io) {
        for segment in io.segments() {
            if let Some(number) = segment.buffer() {
                let start = self.known.get(&number);
                let start = start.unwrap_or_else(|| panic!("{number:?} is no number"));
                let at = segment.as_ptr().addr();
                let inside = at >= *start && at + segment.len() <= start + 4096;
                assert!(inside, "{number:?} is other memory");
            }
        }
    }
}

impl BlockImage for TouchImage {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn queue(&mut self, io: Io) {
        self.look(&io);
        self.inner.queue(io);
    }

    fn submit(&mut self) -> Result<()> {
        self.inner.submit()
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        let before = done.len();
        self.inner.completions(done);
        for completion in done.iter().skip(before) {
            self.look_at_numbers(&completion.io);
        }
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.inner.completion_fd()
    }

    fn register(&mut self, memory: &(dyn SharedMemory + Send + Sync)) -> Option<BufferId> {
        // Few numbers, so that they are soon given again.
        let mut numbers = (0..8).map(|n| BufferId((self.next + n) % 8));
        let number = numbers.find(|number| !self.known.contains_key(number))?;
        self.next = (self.next + 1) % 8;
        self.known.insert(number, memory.as_ptr().addr().get());
        Some(number)
    }

    fn unregister(&mut self, buffer: BufferId) {
        let known = self.known.remove(&buffer);
        assert!(known.is_some(), "{buffer:?} is no number");
    }
}
