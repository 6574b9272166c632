//! A cache's file.
//!
//! | at | what |
//! | --- | --- |
//! | 0 | a header of 16384 bytes (see [`sealed`](crate::sealed)) with the magic `CANTLRDC` |
//! | 16384 | a byte for each granule: 0xC1 says that it is there |
//! | next multiple of a granule | the granules, each where it is on the disk |
//!
//! The header's fields: the granule in bytes (8), the disk's size in bytes (8), closed or not (4), the boot in which it was last opened (16), the
//! identity's length (4) and the identity.
//!
//! A byte for each granule, rather than a bit: so processes that fill different granules need no lock between them, and those that fill the same one write
//! the same bytes. Locks (`flock`) are for opening and closing: whoever fills the file holds one on it, shared, and whoever opens or closes holds one
//! on the folder's `lock`. The last one to close brings all to the medium and then says in the header that it is closed. A file that is not
//! closed, and was opened in another boot of the host, is thrown away: its bytes may be newer than its granules.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};

use super::identity::Identity;
use crate::Granularity;
use crate::bitmap::Bitmap;
use crate::sealed::{BadHeader, Fields, Reader};

const MAGIC: [u8; 8] = *b"CANTLRDC";
const HEADER: usize = 16384;
const THERE: u8 = 0xc1;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) granularity: Granularity,
    pub(super) disk: u64,
    pub(super) closed: bool,
    pub(super) boot: [u8; 16],
    pub(super) identity: Vec<u8>,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> std::result::Result<Self, BadHeader> {
        let mut fields = Reader::open(MAGIC, bytes)?;
        let granularity = Granularity::new(fields.u64("granularity")?)
            .map_err(|_| BadHeader::Field("granularity"))?;
        let disk = fields.u64("disk size")?;
        let closed = fields.flag("closed")?;
        let boot = fields.array("boot")?;
        let len = usize::try_from(fields.u32("identity length")?).unwrap_or(usize::MAX);
        let identity = fields.bytes(len, "identity")?.to_vec();
        Ok(Self {
            granularity,
            disk,
            closed,
            boot,
            identity,
        })
    }

    fn emit(&self) -> Result<Vec<u8>> {
        let mut fields = Fields::default();
        fields
            .u64(self.granularity.bytes())
            .u64(self.disk)
            .u32(self.closed.into());
        fields.bytes(&self.boot);
        fields
            .u32(u32::try_from(self.identity.len()).unwrap_or(u32::MAX))
            .bytes(&self.identity);
        fields
            .seal(MAGIC, HEADER)
            .ok_or_else(|| ErrorKind::InvalidInput.into())
    }

    /// Where the granules begin.
    fn data(&self) -> u64 {
        (HEADER as u64 + self.granularity.count(self.disk))
            .next_multiple_of(self.granularity.bytes())
    }
}

/// An open cache file, with a shared lock on it if it is filled.
pub(super) struct CacheFile {
    file: Arc<File>,
    header: Header,
    folder: PathBuf,
    fills: bool,
}

/// Holds the folder's lock until it is dropped.
fn lock_folder(folder: &Path) -> Result<File> {
    let lock = options()
        .create(true)
        .truncate(false)
        .open(folder.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn header_of(file: &File) -> Option<Header> {
    let mut bytes = vec![0; HEADER];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Header::parse(&bytes).ok()
}

impl CacheFile {
    /// Opens the cache of an image, or makes one. `boot` is the host's present boot.
    pub(super) fn open(
        folder: &Path,
        identity: &Identity,
        granularity: Granularity,
        disk: u64,
        boot: [u8; 16],
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let _lock = lock_folder(folder)?;
        let path = folder.join(identity.file_name());
        let wanted = Header {
            granularity,
            disk,
            closed: false,
            boot,
            identity: identity.bytes().to_vec(),
        };
        let there = match options().open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let good = there.filter(|file| {
            header_of(file).is_some_and(|header| {
                let same = Header {
                    closed: false,
                    boot,
                    ..header.clone()
                } == wanted;
                same && (header.closed || header.boot == boot)
            })
        });
        let file = match good {
            Some(file) => file,
            None => Self::make(&path, &wanted)?,
        };
        flock(&file, FlockOperation::LockShared)?;
        // Said on the medium before anything is filled.
        file.write_all_at(&wanted.emit()?, 0)?;
        file.sync_data()?;
        Ok(Self {
            file: Arc::new(file),
            header: wanted,
            folder: folder.to_owned(),
            fills: true,
        })
    }

    /// Opens a cache to read from it, if there is one that can be used.
    pub(super) fn open_to_read(
        folder: &Path,
        identity: &Identity,
        granularity: Granularity,
        disk: u64,
        boot: [u8; 16],
    ) -> Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(folder.join(identity.file_name()))?;
        let good = header_of(&file).filter(|header| {
            let fits = header.granularity == granularity && header.disk == disk;
            fits && header.identity == identity.bytes() && (header.closed || header.boot == boot)
        });
        Ok(good.map(|header| Self {
            file: Arc::new(file),
            header,
            folder: folder.to_owned(),
            fills: false,
        }))
    }

    /// A new file in the place of whatever is there. Who still has that open keeps it.
    fn make(path: &Path, header: &Header) -> Result<File> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = options().create_new(true).open(path)?;
        let len = header
            .data()
            .checked_add(header.disk)
            .ok_or(ErrorKind::FileTooLarge)?;
        file.set_len(len)?;
        Ok(file)
    }

    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub(super) fn fills(&self) -> bool {
        self.fills
    }

    /// Where the disk's first byte is in the file.
    pub(super) fn data(&self) -> u64 {
        self.header.data()
    }

    /// Adds to `known` which granules of a run are there. The run is looked at in parts of 64 Ki granules; how far it was looked at.
    pub(super) fn look(&self, run: std::ops::Range<u64>, known: &mut Bitmap) -> Result<u64> {
        let end = run.end.min(run.start.saturating_add(1 << 16));
        let len = usize::try_from(end.saturating_sub(run.start)).map_err(Error::other)?;
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, HEADER as u64 + run.start)?;
        for (granule, byte) in (run.start..).zip(bytes) {
            if byte == THERE {
                known.set(granule..granule + 1);
            }
        }
        Ok(end)
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(into, self.data().saturating_add(offset))
    }

    /// Puts a granule in, and then says that it is there.
    pub(super) fn fill(&self, granule: u64, bytes: &[u8]) -> Result<()> {
        let at = self
            .data()
            .saturating_add(granule.saturating_mul(self.header.granularity.bytes()));
        self.file.write_all_at(bytes, at)?;
        self.file.write_all_at(&[THERE], HEADER as u64 + granule)
    }

    /// Bytes that are free where the file is, for others than root.
    pub(super) fn free(&self) -> Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.file)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn close(&self) -> Result<()> {
        let _lock = lock_folder(&self.folder)?;
        // Nobody opens now. Where another one has it open, that one will close it.
        if flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        self.file.sync_data()?;
        let closed = Header {
            closed: true,
            ..self.header.clone()
        };
        self.file.write_all_at(&closed.emit()?, 0)?;
        self.file.sync_data()
    }
}

impl Drop for CacheFile {
    fn drop(&mut self) {
        if self.fills
            && let Err(error) = self.close()
        {
            tracing::warn!(%error, "a cache could not be closed: it will be empty when the host has started anew");
        }
    }
}

/// Reads a header that may be anything.
#[cfg(any(test, feature = "test-utils"))]
pub(crate) fn parse_any(bytes: &[u8]) {
    if let Ok(header) = Header::parse(bytes) {
        let same = header
            .emit()
            .ok()
            .and_then(|bytes| Header::parse(&bytes).ok());
        // One with a longer identity than this crate writes has no room.
        assert!(
            same.is_none_or(|same| same == header),
            "a header changes as it is written"
        );
    }
}
