//! Opening a raw image: what it is, how large, and whether the page cache can be bypassed.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::{CacheMode, Durability, Geometry, SECTOR_SIZE};

/// How the host's page cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Through the page cache. A flush brings what was written to the medium.
    #[default]
    Buffered,
    /// Past the page cache (`O_DIRECT`) where that works for single 512-byte sectors here; else as `Buffered`.
    DirectIfPossible,
    /// Past the page cache, or not at all.
    Direct,
}

/// How to open a raw image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawOptions {
    /// Open for reading only.
    pub read_only: bool,
    /// Use of the page cache.
    pub caching: Caching,
    /// When a write has to be on the medium.
    pub durability: Durability,
    /// Offers [secure discards](crate::IoOp::Discard): what is discarded so is overwritten with zeroes in place and brought to the medium. That leaves
    /// nothing where the medium, and the file system on it, writes in place; flash and copy-on-write file systems do not, hence the choice.
    pub secure_discard: bool,
    /// The disk's logical sector size that the guest is told, in bytes: 512, or 4096 ("4Kn"), which a block device must have anyhow.
    /// `None`: as the block device has, 512 for a file.
    pub sector_size: Option<u32>,
    /// How many requests go to the kernel at once. More may be queued; they wait. At least 1; rounded up to a power of two.
    pub queue_depth: u16,
}

impl Default for RawOptions {
    /// Writable, buffered, 128 at once.
    fn default() -> Self {
        Self {
            read_only: false,
            caching: Caching::Buffered,
            durability: Durability::Flush,
            secure_discard: false,
            sector_size: None,
            queue_depth: 128,
        }
    }
}

impl RawOptions {
    /// With what a cache mode says.
    #[must_use]
    pub fn cache(self, mode: CacheMode) -> Self {
        Self {
            caching: mode.caching(),
            durability: mode.durability(),
            ..self
        }
    }
}

/// Why a raw image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It does not exist, or may not be opened so.
    #[error("cannot open disk image {path:?}")]
    Open {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// It is a directory, a pipe or the like.
    #[error("disk image {path:?} is neither a file nor a block device")]
    NoDisk {
        /// The image.
        path: PathBuf,
    },
    /// It is too small, or its last sector is not whole.
    #[error("disk image {path:?} has {len} bytes, but must have a multiple of 512, and not 0")]
    Length {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
    /// A logical sector size that there is not, or that the file's length or its device does not have.
    #[error("disk image {path:?} cannot have sectors of {size} bytes")]
    SectorSize {
        /// The image.
        path: PathBuf,
        /// What was asked for.
        size: u32,
    },
    /// `O_DIRECT` was demanded and does not work for 512-byte sectors here.
    #[error(
        "disk image {path:?} cannot be used past the page cache (O_DIRECT) in sectors of 512 bytes"
    )]
    Direct {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The kernel has no io_uring for us: too old, switched off (`kernel.io_uring_disabled`) or forbidden by a seccomp filter.
    #[error("io_uring is not available on this host")]
    Uring {
        /// What the host said.
        source: io::Error,
    },
}

pub(super) struct Opened {
    pub(super) file: File,
    pub(super) geometry: Geometry,
    pub(super) direct: bool,
}

pub(super) fn open(path: &Path, options: &RawOptions) -> Result<Opened, OpenError> {
    let failed = |source| OpenError::Open {
        path: path.to_owned(),
        source,
    };
    // Without O_NONBLOCK, opening a pipe would hang before it could be seen to be one.
    let file = OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let block_device = metadata.file_type().is_block_device();
    if !block_device && !metadata.is_file() {
        return Err(OpenError::NoDisk {
            path: path.to_owned(),
        });
    }
    // A device's metadata does not know its size; seeking does, for both.
    let len = (&file).seek(SeekFrom::End(0)).map_err(failed)?;
    if len == 0 || !len.is_multiple_of(SECTOR_SIZE) {
        return Err(OpenError::Length {
            path: path.to_owned(),
            len,
        });
    }
    let (logical, physical) = if block_device {
        let logical = rustix::fs::ioctl_blksszget(&file).unwrap_or(512);
        (logical, rustix::fs::ioctl_blkpbszget(&file).unwrap_or(512))
    } else {
        // A file is written by blocks of its file system.
        let block = u32::try_from(metadata.blksize()).unwrap_or(512);
        (512, block.min(4096))
    };
    let sector_size = options.sector_size.unwrap_or(logical);
    if !matches!(sector_size, 512 | 4096)
        || sector_size < logical
        || !len.is_multiple_of(sector_size.into())
    {
        return Err(OpenError::SectorSize {
            path: path.to_owned(),
            size: sector_size,
        });
    }
    let direct = set_caching(&file, path, options.caching, logical)?;
    Ok(Opened {
        geometry: Geometry {
            sectors: len / SECTOR_SIZE,
            sector_size,
            physical_sector_size: if physical.is_power_of_two() {
                physical.max(sector_size)
            } else {
                sector_size
            },
            read_only: options.read_only,
            discard: !options.read_only,
            secure_discard: options.secure_discard && !options.read_only,
            discard_granularity: physical.next_power_of_two().max(sector_size),
        },
        file,
        direct,
    })
}

/// Sets the flags that the caching asks for, and tries whether they work; whether the page cache is bypassed.
fn set_caching(file: &File, path: &Path, caching: Caching, sector: u32) -> Result<bool, OpenError> {
    if caching != Caching::Buffered {
        let tried = set_flags(file, OFlags::DIRECT).and_then(|()| try_one_sector(file, sector));
        match tried {
            Ok(()) => return Ok(true),
            Err(source) if caching == Caching::Direct => {
                return Err(OpenError::Direct {
                    path: path.to_owned(),
                    source,
                });
            }
            Err(error) => {
                tracing::info!(?path, %error, "O_DIRECT does not work; using the page cache");
            }
        }
    }
    set_flags(file, OFlags::empty()).map_err(|source| OpenError::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(false)
}

/// Replaces the flags that can be changed. Without `O_NONBLOCK`: with it, a read of what is not cached fails.
fn set_flags(file: &File, flags: OFlags) -> io::Result<()> {
    let other = rustix::fs::fcntl_getfl(file)? - OFlags::NONBLOCK - OFlags::DIRECT;
    Ok(rustix::fs::fcntl_setfl(file, other | flags)?)
}

/// Another open file of the same file, used as the caching says; and whether past the page cache. `file` itself is not touched.
///
/// # Errors
///
/// The host's; `EINVAL` where `O_DIRECT` is demanded and does not work for 512-byte sectors.
pub(crate) fn twin(file: &Arc<File>, caching: Caching) -> io::Result<(Arc<File>, bool)> {
    if caching == Caching::Buffered {
        return Ok((Arc::clone(file), false));
    }
    let mode = rustix::fs::fcntl_getfl(file)? & OFlags::ACCMODE;
    let direct = reopen(file, mode | OFlags::DIRECT)
        .and_then(|direct| try_one_sector(&direct, 512).map(|()| direct));
    match (direct, caching) {
        (Ok(direct), _) => Ok((Arc::new(direct), true)),
        (Err(error), Caching::Direct) => Err(error),
        (Err(_), _) => Ok((Arc::clone(file), false)),
    }
}

fn reopen(file: &File, flags: OFlags) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = flags | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?.into())
}

/// Reads one sector to an address aligned to a sector and no more, which is the least that a guest may ask for.
///
/// File systems and devices differ in what they demand of `O_DIRECT`, and only some tell; a try tells always.
fn try_one_sector(file: &File, sector: u32) -> io::Result<()> {
    const LARGEST: usize = 4096;
    let sector = usize::try_from(sector).unwrap_or(LARGEST).min(LARGEST);
    let mut buffer = [0; 4 * LARGEST];
    let misaligned = buffer.as_ptr().addr() % (2 * sector);
    // An odd multiple of a sector: aligned to one, not to two.
    let start = (3 * sector - misaligned) % (2 * sector);
    let sector = buffer
        .get_mut(start..start + sector)
        .ok_or(io::ErrorKind::InvalidInput)?;
    match file.read_at(sector, 0) {
        // An empty file has no sector to try.
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}
