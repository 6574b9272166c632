//! The few calls by which a format reaches a file.

use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

/// A file that holds an image's bytes. Tests put one in its place that loses what was not synchronised.
///
/// All calls may come from several threads at a time.
#[expect(
    clippy::len_without_is_empty,
    reason = "a file's length may fail, and nobody asks whether it is 0"
)]
pub trait Storage: Send + Sync {
    /// Reads exactly so many bytes.
    ///
    /// # Errors
    ///
    /// The host's; [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) beyond the end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()>;

    /// Writes all of the bytes; beyond the end, the file grows.
    ///
    /// # Errors
    ///
    /// The host's. Some of the bytes may have been written.
    fn write_at(&self, offset: u64, from: &[u8]) -> Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    ///
    /// The host's.
    fn len(&self) -> Result<u64>;

    /// Makes the file shorter or longer; what is new reads as zeroes.
    ///
    /// # Errors
    ///
    /// The host's.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Frees a part of the file, which then reads as zeroes; its length stays. Where the host cannot, nothing happens and it is an
    /// error.
    ///
    /// # Errors
    ///
    /// The host's.
    fn punch(&self, offset: u64, len: u64) -> Result<()>;

    /// All that was written, by this or by anybody else, is on the medium when this returns.
    ///
    /// # Errors
    ///
    /// The host's.
    fn sync(&self) -> Result<()>;

    /// The file itself, for what goes to it by io_uring.
    fn file(&self) -> Arc<File>;
}

impl Storage for Arc<File> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.write_all_at(from, offset)
    }

    fn len(&self) -> Result<u64> {
        // A block device's metadata does not know its size; seeking does, for both.
        Ok(rustix::fs::seek(self, rustix::fs::SeekFrom::End(0))?)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        File::set_len(self, len)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(self, flags, offset, len).map_err(Error::from)
    }

    fn sync(&self) -> Result<()> {
        self.sync_data()
    }

    fn file(&self) -> Arc<File> {
        Arc::clone(self)
    }
}
