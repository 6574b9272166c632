//! A golden image that many guests read, kept on local disk.

mod file;
mod identity;

use std::fmt;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_image::{Extent, Format, Geometry, Mapped};

use crate::Granularity;
use crate::bitmap::Bitmap;
use file::CacheFile;
#[cfg(any(test, feature = "test-utils"))]
pub(crate) use file::parse_any;
use identity::Identity;

/// How many granules of one cache are filled at the same time by one process.
const STRIPES: u64 = 64;

/// How a [`Cache`] works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// The folder of the caches, on a local disk. It is made if it is not there. Whoever may write there decides what the guests read.
    pub folder: PathBuf,
    /// The unit in which the image is kept.
    pub granularity: Granularity,
    /// So many bytes of the local disk are left free: nothing is kept any more when fewer are.
    pub keep_free: u64,
    /// Whether what is read is kept. If not, the file is only read: for a process that is not trusted with what all others read.
    pub fill: bool,
}

impl CacheOptions {
    /// Keeps what is read in this folder, in granules of 64 KiB, and leaves 1 GiB free.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            granularity: Granularity::default(),
            keep_free: 1 << 30,
            fill: true,
        }
    }
}

/// What a [`Cache`] did since it was opened, as far as reads came by it: what the disk knows to be in the file it reads there by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Granules, or parts of them, that were there.
    pub hits: u64,
    /// Bytes of them.
    pub hit_bytes: u64,
    /// Granules that were read from the image and kept.
    pub fills: u64,
    /// Bytes of them.
    pub fill_bytes: u64,
    /// Granules, or parts of them, that were read from the image and not kept: for want of room, or since that was not asked for.
    pub passed: u64,
}

/// A read-only golden image, what was read of which is kept in a file that all guests of the host share, in one process or in many.
///
/// The image never changes while it is in use. One that has changed, by its path, size, time or inode or those of any file of it, gets a new cache.
/// What goes wrong with the cache's file is not the guest's error: the image is read then. Writes are refused: they are for a differencing layer above.
pub struct Cache {
    golden: Arc<dyn Format>,
    granularity: Granularity,
    size: u64,
    keep_free: u64,
    file: Option<CacheFile>,
    /// The granules that are known to be there. Others may be, too: other processes fill.
    known: Mutex<Bitmap>,
    /// One thread fills a granule at a time.
    stripes: Vec<Mutex<()>>,
    warned: AtomicBool,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    hit_bytes: AtomicU64,
    fills: AtomicU64,
    fill_bytes: AtomicU64,
    passed: AtomicU64,
}

impl Cache {
    /// A cache of `golden`, which was opened from `path`. Where the folder cannot be used, reads go to the image.
    ///
    /// # Errors
    ///
    /// The image's path and files cannot be looked at.
    pub fn open(golden: Arc<dyn Format>, path: &Path, options: &CacheOptions) -> Result<Self> {
        Self::open_in_boot(golden, path, options, boot_id())
    }

    fn open_in_boot(
        golden: Arc<dyn Format>,
        path: &Path,
        options: &CacheOptions,
        boot: Option<[u8; 16]>,
    ) -> Result<Self> {
        let identity = Identity::of(path, &*golden)?;
        let (granularity, size) = (options.granularity, golden.geometry().bytes());
        let opened = match boot {
            None => Err(Error::new(ErrorKind::NotFound, "the host has no boot id")),
            Some(boot) if options.fill => {
                CacheFile::open(&options.folder, &identity, granularity, size, boot).map(Some)
            }
            Some(boot) => {
                CacheFile::open_to_read(&options.folder, &identity, granularity, size, boot)
            }
        };
        let file = opened.unwrap_or_else(|error| {
            tracing::warn!(%error, folder = %options.folder.display(), "no cache: the image itself is read");
            None
        });
        Ok(Self {
            golden,
            granularity,
            size,
            keep_free: options.keep_free,
            file,
            known: Mutex::new(Bitmap::new(granularity.count(size), false)),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            warned: AtomicBool::new(false),
            counters: Counters::default(),
        })
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hits: of(&self.counters.hits),
            hit_bytes: of(&self.counters.hit_bytes),
            fills: of(&self.counters.fills),
            fill_bytes: of(&self.counters.fill_bytes),
            passed: of(&self.counters.passed),
        }
    }

    /// Whether there is a cache, or all reads go to the image.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.file.is_some()
    }

    fn known(&self) -> MutexGuard<'_, Bitmap> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a granule is in the file, for all that is known or can be found out.
    fn is_there(&self, file: &CacheFile, granule: u64) -> bool {
        let mut known = self.known();
        if !known.get(granule) {
            // An error is as good as an absence.
            let _ = file.look(granule..granule + 1, &mut known);
        }
        known.get(granule)
    }

    /// Reads a part of one granule.
    fn read_part(&self, granule: u64, at: u64, into: &mut [u8]) -> Result<()> {
        let Some(file) = &self.file else {
            count(&self.counters.passed, 1);
            return self.golden.read(at, into);
        };
        let stripe = self
            .stripes
            .get(usize::try_from(granule % STRIPES).unwrap_or(0));
        let held = if self.is_there(file, granule) {
            None
        } else {
            stripe.map(|stripe| stripe.lock().unwrap_or_else(PoisonError::into_inner))
        };
        // Somebody may have filled it while this waited.
        if held.is_none() || self.is_there(file, granule) {
            match file.read(at, into) {
                Ok(()) => {
                    count(&self.counters.hits, 1);
                    count(&self.counters.hit_bytes, into.len() as u64);
                    return Ok(());
                }
                Err(error) => self.warn(&error),
            }
        } else if file.fills() {
            return self.fill(file, granule, at, into);
        }
        drop(held);
        count(&self.counters.passed, 1);
        self.golden.read(at, into)
    }

    /// Reads a granule from the image and keeps it.
    fn fill(&self, file: &CacheFile, granule: u64, at: u64, into: &mut [u8]) -> Result<()> {
        let whole = self.granularity.bytes_of(granule..granule + 1, self.size);
        let len = usize::try_from(whole.end - whole.start).map_err(Error::other)?;
        if file.free().unwrap_or(0) < self.keep_free.saturating_add(len as u64) {
            count(&self.counters.passed, 1);
            return self.golden.read(at, into);
        }
        let mut bytes = vec![0; len];
        self.golden.read(whole.start, &mut bytes)?;
        let skip = usize::try_from(at - whole.start).map_err(Error::other)?;
        let part = bytes.get(skip..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(part.ok_or(ErrorKind::InvalidInput)?);
        match file.fill(granule, &bytes) {
            Ok(()) => {
                self.known().set(granule..granule + 1);
                count(&self.counters.fills, 1);
                count(&self.counters.fill_bytes, len as u64);
            }
            Err(error) => {
                self.warn(&error);
                count(&self.counters.passed, 1);
            }
        }
        Ok(())
    }

    /// Says once that something is wrong with the cache.
    fn warn(&self, error: &Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "a cache's file fails: the image itself is read");
        }
    }
}

fn count(counter: &AtomicU64, add: u64) {
    // A number to look at: no other memory goes by it.
    counter.fetch_add(add, Ordering::Relaxed);
}

/// The host's present boot.
fn boot_id() -> Option<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    text.trim()
        .parse::<crate::GenerationId>()
        .ok()
        .map(|id| id.0)
}

impl Format for Cache {
    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.size / cantle_image::SECTOR_SIZE,
            read_only: true,
            discard: false,
            secure_discard: false,
            ..self.golden.geometry()
        }
    }

    fn files(&self) -> Vec<Arc<File>> {
        self.file.iter().map(CacheFile::file).collect()
    }

    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        let other = |len| Mapped {
            extent: Extent::Other,
            len,
        };
        let Some(file) = &self.file else {
            return Ok(match self.golden.map(offset, len)? {
                zero @ Mapped {
                    extent: Extent::Zero,
                    ..
                } => zero,
                elsewhere => other(elsewhere.len),
            });
        };
        let granules = self.granularity.touched(offset, len);
        let mut known = self.known();
        if !known.get(granules.start) {
            // An error is as good as an absence.
            let _ = file.look(granules.clone(), &mut known);
        }
        let (there, end) = known.same(granules);
        drop(known);
        let end = self.granularity.bytes_of(0..end, self.size).end;
        let len = len.min(end.saturating_sub(offset).max(512));
        if there {
            let offset = file.data().saturating_add(offset);
            return Ok(Mapped {
                extent: Extent::Data {
                    file: 0,
                    offset,
                    writable: false,
                },
                len,
            });
        }
        Ok(match self.golden.map(offset, len)? {
            zero @ Mapped {
                extent: Extent::Zero,
                ..
            } => zero,
            elsewhere => other(elsewhere.len),
        })
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let granule = self.granularity.of(at);
            let end = self
                .granularity
                .bytes_of(granule..granule + 1, self.size)
                .end;
            let here = usize::try_from(end.saturating_sub(at))
                .unwrap_or(usize::MAX)
                .min(rest.len());
            if here == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let (now, after) = rest.split_at_mut(here);
            self.read_part(granule, at, now)?;
            at += here as u64;
            rest = after;
        }
        Ok(())
    }

    fn write(&self, _offset: u64, _from: &[u8]) -> Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn discard(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("active", &self.is_active())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
