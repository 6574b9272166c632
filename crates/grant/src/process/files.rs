//! Guest memory that another process can have windows onto.

// UNSAFETY: the trait vouches for where memory is kept.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

/// A file that guest memory is kept in.
#[derive(Debug)]
pub struct GuestFile {
    /// The file: a memory file, open for reading and writing.
    pub fd: OwnedFd,
    /// Its length in bytes, a multiple of the page's.
    pub len: u64,
}

/// Where in a guest's files a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePage {
    /// Which of [`GuestFiles::files`].
    pub file: usize,
    /// Where in it, in pages.
    pub page: u64,
}

/// Guest memory that is kept in memory files: what a [`Broker`](super::Broker) needs besides a table.
///
/// # Safety
///
/// What [`locate`](Self::locate) says is the very memory that was asked about. All of the files is the guest's: whoever is lent a page of them may
/// be lent any, and no page of the host's own is among them. The files do not shrink.
pub unsafe trait GuestFiles: Send + Sync {
    /// The files, each time the same ones in the same order.
    ///
    /// # Errors
    ///
    /// Where a descriptor cannot be duplicated.
    fn files(&self) -> io::Result<Vec<GuestFile>>;

    /// Where a page is kept that [`GuestFrames::frame`](crate::GuestFrames::frame) returned; `None` for what is in no file.
    fn locate(&self, page: NonNull<u8>) -> Option<FilePage>;
}
