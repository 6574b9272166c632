//! A request on its way.

use std::collections::VecDeque;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::{Fixed, FsyncFlags};

use super::Tag;
use crate::{Durability, ImageError, Io, IoOp};

/// How often a request is tried again that was interrupted.
const RETRIES: u8 = 16;
/// What a secure discard writes, as often as it takes.
static ZEROES: Zeroes = Zeroes([0; 1 << 16]);
/// How many times that at once.
const ZERO_VECTORS: usize = 64;

/// Aligned as it takes to go past the page cache.
#[repr(align(4096))]
struct Zeroes([u8; 1 << 16]);

/// A part of a file that a part of a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The file's place among the registered ones.
    pub(crate) file: u16,
    /// The first byte in it.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) len: u64,
}

/// A request at a fixed place in [`Uring::flights`](super::Uring) until it is over.
#[derive(Default)]
pub(super) struct Flight {
    /// `None`: the place is free.
    io: Option<Io>,
    tag: Tag,
    /// What is left to do; of the first one, less what is done already.
    pieces: VecDeque<Piece>,
    /// Where the kernel transfers to or from: a piece's memory, merged where it touches.
    iovecs: Vec<libc::iovec>,
    /// Bytes transferred so far, of all pieces.
    done: usize,
    /// What has been zeroed is to be brought to the medium before it is over.
    syncing: bool,
    retries: u8,
}

// SAFETY: the addresses in `iovecs` belong to `io`, which may go to another thread itself, or to a constant.
unsafe impl Send for Flight {}

impl Flight {
    pub(super) fn begin(&mut self, io: Io, tag: Tag, pieces: impl IntoIterator<Item = Piece>) {
        self.io = Some(io);
        self.tag = tag;
        self.pieces.clear();
        self.pieces.extend(pieces);
        self.done = 0;
        self.syncing = false;
        self.retries = 0;
    }

    pub(super) fn take(&mut self) -> Option<(Io, Tag)> {
        Some((self.io.take()?, self.tag))
    }

    /// The submission of what is to be done next. `None` for a free place, which is never queued.
    pub(super) fn entry(&mut self, durability: Durability) -> Option<Entry> {
        let io = self.io.as_ref()?;
        let piece = *self.pieces.front()?;
        let file = Fixed(piece.file.into());
        let flags = match durability {
            Durability::Write => libc::RWF_DSYNC,
            Durability::Flush | Durability::Never => 0,
        };
        Some(match io.op() {
            _ if self.syncing => sync(file),
            IoOp::Flush => sync(file),
            IoOp::Discard { secure: false, .. } => opcode::Fallocate::new(file, piece.len)
                .offset(piece.offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            IoOp::Discard { secure: true, .. } => {
                zeroes(piece.len, &mut self.iovecs);
                let vectors = u32::try_from(self.iovecs.len()).unwrap_or(0);
                opcode::Writev::new(file, self.iovecs.as_ptr(), vectors)
                    .offset(piece.offset)
                    .build()
            }
            op => {
                let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
                gather(io, self.done, len, &mut self.iovecs);
                transfer(op, io, file, piece.offset, &self.iovecs, flags)
            }
        })
    }

    /// Takes in the kernel's result; `None` where more is to be submitted.
    pub(super) fn advance(&mut self, result: i32) -> Option<Result<(), ImageError>> {
        let Some(io) = self.io.as_ref() else {
            return Some(Ok(()));
        };
        let Ok(transferred) = usize::try_from(result) else {
            let errno = result.wrapping_neg();
            // The kernel cancels what a thread has in flight when that thread ends; the image goes on in another.
            let again = matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED);
            if again && self.retries < RETRIES {
                self.retries += 1;
                return None;
            }
            return Some(Err(match errno {
                libc::EOPNOTSUPP => ImageError::Unsupported,
                errno => ImageError::Host(errno),
            }));
        };
        let Some(piece) = self.pieces.front_mut() else {
            return Some(Ok(()));
        };
        match io.op() {
            IoOp::Flush | IoOp::Discard { secure: false, .. } => {
                self.pieces.pop_front();
            }
            IoOp::Discard { secure: true, .. } if self.syncing => {
                self.syncing = false;
                self.pieces.pop_front();
            }
            _ => {
                let wanted = usize::try_from(piece.len).unwrap_or(usize::MAX);
                if transferred == 0 && wanted != 0 {
                    let (done, wanted) = (self.done, io.bytes());
                    return Some(Err(ImageError::Short { done, wanted }));
                }
                let moved = transferred.min(wanted);
                self.done += moved;
                piece.offset += moved as u64;
                piece.len -= moved as u64;
                if piece.len == 0 {
                    if matches!(io.op(), IoOp::Discard { .. }) {
                        self.syncing = true;
                    } else {
                        self.pieces.pop_front();
                    }
                }
            }
        }
        self.pieces.is_empty().then_some(Ok(()))
    }
}

fn sync(file: Fixed) -> Entry {
    opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build()
}

/// A read or write of the memory in `iovecs`.
fn transfer(
    op: IoOp,
    io: &Io,
    file: Fixed,
    offset: u64,
    iovecs: &[libc::iovec],
    flags: i32,
) -> Entry {
    let one = match iovecs {
        [one] => u32::try_from(one.iov_len)
            .ok()
            .map(|len| (one.iov_base.cast::<u8>(), len)),
        _ => None,
    };
    // One segment whose memory the kernel knows already.
    let known = match io.segments() {
        [segment] => segment.buffer().map(|buffer| buffer.0),
        _ => None,
    };
    let vectors = u32::try_from(iovecs.len()).unwrap_or(u32::MAX);
    match (op, one, known) {
        (IoOp::Read, Some((base, len)), Some(buffer)) => {
            opcode::ReadFixed::new(file, base, len, buffer)
                .offset(offset)
                .build()
        }
        (IoOp::Read, Some((base, len)), None) => {
            opcode::Read::new(file, base, len).offset(offset).build()
        }
        (IoOp::Read, None, _) => opcode::Readv::new(file, iovecs.as_ptr(), vectors)
            .offset(offset)
            .build(),
        (_, Some((base, len)), Some(buffer)) => opcode::WriteFixed::new(file, base, len, buffer)
            .offset(offset)
            .rw_flags(flags)
            .build(),
        (_, Some((base, len)), None) => opcode::Write::new(file, base, len)
            .offset(offset)
            .rw_flags(flags)
            .build(),
        (_, None, _) => opcode::Writev::new(file, iovecs.as_ptr(), vectors)
            .offset(offset)
            .rw_flags(flags)
            .build(),
    }
}

/// The request's memory of `len` bytes after the first `skip`, as few vectors as possible.
fn gather(io: &Io, skip: usize, len: usize, iovecs: &mut Vec<libc::iovec>) {
    iovecs.clear();
    for (base, len) in io.parts(skip, len) {
        match iovecs.last_mut() {
            Some(last) if last.iov_base.addr() + last.iov_len == base.addr() => last.iov_len += len,
            _ => iovecs.push(libc::iovec {
                iov_base: base.cast(),
                iov_len: len,
            }),
        }
    }
}

/// As many vectors of zeroes as `len` bytes need, up to a limit.
fn zeroes(len: u64, iovecs: &mut Vec<libc::iovec>) {
    iovecs.clear();
    let mut left = usize::try_from(len).unwrap_or(usize::MAX);
    while left > 0 && iovecs.len() < ZERO_VECTORS {
        let here = left.min(ZEROES.0.len());
        iovecs.push(libc::iovec {
            iov_base: ZEROES.0.as_ptr().cast_mut().cast(),
            iov_len: here,
        });
        left -= here;
    }
}
