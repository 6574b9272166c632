//! A disk, read and written in whole blocks from aligned memory, which direct I/O wants.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

const ALIGNMENT: usize = 4096;

/// Whether a disk's reads and writes pass the page cache by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Cached,
}

/// Opens a block device or a file. A file system without direct I/O has files read and written without it.
pub(crate) fn open(path: &str, write: bool, way: Way) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    let cached = options.clone();
    if way == Way::Direct {
        options.custom_flags(i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default());
    }
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => cached.open(path),
        other => other,
    }
}

/// Bytes of a file or a block device.
pub(crate) fn size(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Memory that direct I/O takes.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start }
    }

    /// Its first so many bytes.
    pub(crate) fn first(&mut self, len: usize) -> io::Result<&mut [u8]> {
        self.bytes
            .get_mut(self.start..)
            .and_then(|bytes| bytes.get_mut(..len))
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }
}
