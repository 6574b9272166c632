//! What a disk format is: where on which file a disk's bytes lie, by calls that wait.
//!
//! A [`Format`] knows its tables and nothing of queues, guests or completions. [`FormatDisk`](crate::FormatDisk) makes a disk of
//! one: what is known to lie at one place goes there by io_uring, straight between the file and the guest's page; all
//! else (tables that are not in memory yet, new blocks, compressed ones, what is copied from a parent) is done by these calls, in a thread
//! that may wait.
//!
//! # The contract
//!
//! Offsets and lengths are in bytes, multiples of 512, and within the disk: the caller has checked it. Calls come from several threads; a
//! format locks what it needs. What a call was not asked for, nobody waits for: an error leaves the metadata valid.
//!
//! **Durability.** What [`write`](Format::write) and [`discard`](Format::discard) did may be lost by a crash of the host until
//! [`flush`](Format::flush) has returned, and no longer. At any moment, whatever part of what was written since the last flush reached
//! the medium and in whatever order, the image can be opened again and reads back all that was flushed. So tables that point to new
//! places are written only after what they point to is on the medium.
//!
//! **Stability.** Where [`map`](Format::map) says [`Extent::Data`], the bytes stay there until a call of [`discard`](Format::discard) or of
//! one that needs the disk for itself ([`FormatDisk::exclusive`](crate::FormatDisk::exclusive)). A [`write`](Format::write) never moves what is `Data { writable: true }`.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::Geometry;

/// What a part of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes of one of the [`files`](Format::files), one after the other.
    Data {
        /// Which file: an index into [`Format::files`].
        file: u16,
        /// Where the first byte is in it.
        offset: u64,
        /// Whether the disk may be written by writing there. False for what belongs to a parent, is compressed elsewhere, or whose
        /// table says more than where it is.
        writable: bool,
    },
    /// Zeroes, which are nowhere.
    Zero,
    /// Neither: only [`Format::read`] knows.
    Other,
}

/// An [`Extent`] and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// What it is.
    pub extent: Extent,
    /// How many bytes, at least 512 and a multiple of it, and no more than was asked about.
    pub len: u64,
}

/// A disk format, opened: see the [module](self) for the contract.
pub trait Format: Send + Sync {
    /// The disk's size and nature, as it is now.
    fn geometry(&self) -> Geometry;

    /// The files that [`Extent::Data`] names, a parent's too. The list only ever grows; a file's place does not change.
    fn files(&self) -> Vec<Arc<File>>;

    /// What the disk has at `offset`, and for how many of the `len` bytes from there. It may read tables.
    ///
    /// # Errors
    ///
    /// The host's; [`ErrorKind::InvalidData`] where a table makes no sense.
    fn map(&self, offset: u64, len: u64) -> Result<Mapped>;

    /// Reads.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map). What `into` then holds is not known.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()>;

    /// Writes, and makes room for it where there is none.
    ///
    /// # Errors
    ///
    /// The host's, such as `ENOSPC`; the disk then has the old or the new bytes, sector by sector.
    fn write(&self, offset: u64, from: &[u8]) -> Result<()>;

    /// The bytes are not wanted any more: they read as zeroes, as a parent's, or as they did.
    ///
    /// # Errors
    ///
    /// The host's. A format that cannot do it does nothing.
    fn discard(&self, offset: u64, len: u64) -> Result<()>;

    /// What was written is on the medium when this returns, whoever wrote it: by [`write`](Self::write), or straight into the
    /// [`files`](Self::files).
    ///
    /// # Errors
    ///
    /// The host's. What is on the medium is then not known; a later success does not mean that earlier writes are.
    fn flush(&self) -> Result<()>;

    /// Makes the disk larger; what is new reads as zeroes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the format cannot; the host's.
    fn grow(&self, sectors: u64) -> Result<()> {
        let _ = sectors;
        Err(ErrorKind::Unsupported.into())
    }
}

impl<F: Format + ?Sized> Format for Arc<F> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    fn files(&self) -> Vec<Arc<File>> {
        (**self).files()
    }
    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        (**self).map(offset, len)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        (**self).read(offset, into)
    }
    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        (**self).write(offset, from)
    }
    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        (**self).discard(offset, len)
    }
    fn flush(&self) -> Result<()> {
        (**self).flush()
    }
    fn grow(&self, sectors: u64) -> Result<()> {
        (**self).grow(sectors)
    }
}

/// Reads a part of a disk as its [`map`](Format::map) says: for parents, copies and checks. Parts that are [`Extent::Other`] are read by
/// [`Format::read`], so a format whose own `read` calls this answers `Other` nowhere.
///
/// # Errors
///
/// As for [`Format::read`]; [`ErrorKind::UnexpectedEof`] where a file ends before its data does.
pub fn read_mapped(format: &(impl Format + ?Sized), offset: u64, into: &mut [u8]) -> Result<()> {
    let files = format.files();
    let (mut at, mut rest) = (offset, into);
    while !rest.is_empty() {
        let Mapped { extent, len } = format.map(at, rest.len() as u64)?;
        let len = usize::try_from(len).unwrap_or(rest.len()).min(rest.len());
        if len == 0 {
            return Err(Error::new(ErrorKind::InvalidData, "an empty extent"));
        }
        let (here, after) = rest.split_at_mut(len);
        match extent {
            Extent::Data { file, offset, .. } => files
                .get(usize::from(file))
                .ok_or(ErrorKind::InvalidData)?
                .read_exact_at(here, offset)?,
            Extent::Zero => here.fill(0),
            Extent::Other => format.read(at, here)?,
        }
        at += len as u64;
        rest = after;
    }
    Ok(())
}
