//! Opening an image.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use cantle_image::{Format, Storage};
use rustix::fs::OFlags;

use crate::backing::{Backing, BackingError, Chain};
use crate::commit::{AUTOCLEAR, INCOMPATIBLE};
use crate::header::{Header, HeaderError};
use crate::shape::Shape;
use crate::tables::{Tables, read_head};
use crate::{CheckReport, Qcow2};

/// How to open an image.
#[derive(Clone, Debug)]
pub struct Options {
    /// For reading only. Nothing at all is written then, and damaged counts do not matter.
    pub read_only: bool,
    /// What to do where the image names a backing file.
    pub backing: Backing,
    /// How many bytes of tables to keep in memory. At least eight tables of a cluster each, of either kind, are kept.
    pub cache: usize,
}

impl Default for Options {
    /// Writable, without following a backing file's name, 16 MiB of tables (which are about 128 GiB of disk in clusters of 64 KiB).
    fn default() -> Self {
        Self {
            read_only: false,
            backing: Backing::Refuse,
            cache: 16 << 20,
        }
    }
}

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file does not exist, or may not be opened so, or cannot be read.
    #[error("cannot open qcow2 image {path:?}")]
    Io {
        /// The image, empty where a [`Storage`] was opened.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// It is a directory, a pipe or the like.
    #[error("qcow2 image {path:?} is neither a file nor a block device")]
    NoFile {
        /// The image.
        path: PathBuf,
    },
    /// The header is wrong, or asks for what cannot be done here.
    #[error("cannot use the image's header")]
    Header(#[from] HeaderError),
    /// The tables are wrong, or could not be read.
    #[error("cannot use the image's tables")]
    Tables {
        /// What is wrong.
        source: io::Error,
    },
    /// It is marked as damaged. It can be read.
    #[error("the image is marked as corrupt, and can be opened for reading only")]
    Corrupt,
    /// Its counts were not up to date, and a look through its tables found what cannot be repaired. It can be read.
    #[error("the image was not closed, and has {} errors that cannot be repaired", .0.errors)]
    Dirty(CheckReport),
    /// Its backing file is not to be, or cannot be, used.
    #[error("cannot use the image's backing file")]
    Backing(#[from] BackingError),
}

impl Qcow2 {
    /// Opens an image in a file, or what stands for one. A backing file's name is relative to nothing here: see [`Backing`].
    ///
    /// An image that was not closed (its dirty bit is set: QEMU's lazy refcounts) is repaired, unless it is only read. Features that
    /// writing would invalidate, such as dirty bitmaps, are marked invalid when it is opened for writing.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(storage: Arc<dyn Storage>, options: &Options) -> Result<Self, OpenError> {
        Self::open_in(storage, options, &Chain::default())
    }

    /// Opens an image file or block device. A backing file's name is relative to the image's folder.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open_path(path: &Path, options: &Options) -> Result<Self, OpenError> {
        Self::open_path_in(path, options, &Chain::default())
    }

    pub(crate) fn open_path_in(
        path: &Path,
        options: &Options,
        chain: &Chain,
    ) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let file = open_file(path, options.read_only).map_err(failed)?;
        let Some(file) = file else {
            return Err(OpenError::NoFile {
                path: path.to_owned(),
            });
        };
        let chain = chain.with(path)?;
        Self::open_in(Arc::new(Arc::new(file)), options, &chain)
    }

    fn open_in(
        storage: Arc<dyn Storage>,
        options: &Options,
        chain: &Chain,
    ) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io {
            path: PathBuf::new(),
            source,
        };
        let header = Header::parse(&read_head(&*storage).map_err(failed)?)?;
        let writable = !options.read_only;
        if writable && header.corrupt {
            return Err(OpenError::Corrupt);
        }
        let parent = options.backing.parent(header.backing.as_ref(), chain)?;
        Self::open_with(storage, header, parent, options)
    }

    pub(crate) fn open_with(
        storage: Arc<dyn Storage>,
        header: Header,
        parent: Option<Arc<dyn Format>>,
        options: &Options,
    ) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Tables { source };
        let writable = !options.read_only;
        if writable {
            whole_clusters(&*storage, &header).map_err(failed)?;
        }
        let mut tables =
            Tables::load(Arc::clone(&storage), &header, writable, options.cache).map_err(failed)?;
        if writable && header.dirty {
            let report = crate::check::check(&mut tables, &header, true).map_err(failed)?;
            if report.errors != 0 {
                return Err(OpenError::Dirty(report));
            }
            tracing::info!(
                repaired = report.repaired,
                "repaired an image that was not closed"
            );
            tables.clear_feature(INCOMPATIBLE, 1).map_err(failed)?;
        }
        if writable && header.autoclear != 0 {
            tables.clear_feature(AUTOCLEAR, u64::MAX).map_err(failed)?;
        }
        Ok(Self {
            storage,
            shape: Shape::of(&header),
            read_only: options.read_only,
            parent,
            size: AtomicU64::new(header.size),
            tables: Mutex::new(tables),
            header,
        })
    }

    /// What an image says of itself, without opening it: its backing file is not looked for.
    ///
    /// # Errors
    ///
    /// [`OpenError::Io`], [`OpenError::Header`].
    pub fn inspect(storage: &dyn Storage) -> Result<Header, OpenError> {
        let failed = |source| OpenError::Io {
            path: PathBuf::new(),
            source,
        };
        Ok(Header::parse(&read_head(storage).map_err(failed)?)?)
    }
}

/// `None`: it is no file.
pub(crate) fn open_file(path: &Path, read_only: bool) -> io::Result<Option<File>> {
    // Without O_NONBLOCK, opening a pipe would hang before it could be seen to be one.
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    let kind = file.metadata()?.file_type();
    Ok((kind.is_file() || kind.is_block_device()).then_some(file))
}

/// A file may end within its last cluster. To write there like anywhere else, it is made to end with it.
fn whole_clusters(storage: &dyn Storage, header: &Header) -> io::Result<()> {
    let len = storage.len()?;
    let whole = len.checked_next_multiple_of(1 << header.cluster_bits);
    match whole {
        Some(whole) if whole != len => storage.set_len(whole),
        _ => Ok(()),
    }
}
