//! An image, open.

mod format;
mod grow;
mod mark;

pub(crate) use mark::first_cid;

use std::fs::{File, OpenOptions as FileOptions};
use std::io::{self, ErrorKind, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};

use cantle_image::Storage;
use rustix::fs::OFlags;

use crate::lock::Lock;
use crate::open::{Found, check_name, find};
use crate::part::{Kind, Part};
use crate::{Descriptor, OpenError, Options, Parent, Report};

/// A VMDK image, open: a [`Format`](cantle_image::Format). Dropping it closes it, as [`close`](Self::close) does; what that then fails at is logged.
#[derive(Debug)]
pub struct Vmdk<S: Storage + Clone = Arc<File>> {
    /// As it was when the image was opened.
    descriptor: Descriptor,
    /// The file that the descriptor is in, and where.
    head: S,
    descriptor_at: u64,
    parts: Vec<Part<S>>,
    files: Vec<S>,
    parent: Option<Parent>,
    read_only: bool,
    sectors: AtomicU64,
    cid: AtomicU32,
    /// The image is marked as in use and changed: its parts may be written.
    marked: AtomicBool,
    marking: Mutex<()>,
    /// A flush has failed: it cannot be said to be whole.
    failed: AtomicBool,
    repaired: Option<Report>,
    _lock: Option<Lock>,
}

impl Vmdk {
    /// Opens an image by the path of its descriptor, or of its one file. Opened for writing, that file is locked (`flock`) against others who
    /// do the same, and an image that was not closed is [repaired](Self::repaired), for which all its tables are read (64 MiB for
    /// 1 TiB).
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(path: impl AsRef<Path>, options: &Options) -> std::result::Result<Self, OpenError> {
        let path = path.as_ref();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Open { path, source }
        };
        let head = open_file(path, options, true).map_err(failed(path))?;
        let lock = (!options.read_only)
            .then(|| Lock::take(&head))
            .transpose()
            .map_err(failed(path))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let own = path.file_name().and_then(|name| name.to_str());
        let open = |name: &str| {
            check_name(name, own, options)?;
            let path = folder.join(name);
            open_file(&path, options, false).map_err(failed(&path))
        };
        Self::assemble(head, open, options, lock)
    }
}

impl<S: Storage + Clone> Vmdk<S> {
    /// Opens an image whose descriptor, or one file, is `head`, and whose extents' files are given by `open`, by their plain names (any
    /// name, with [`Options::any_extent`]).
    ///
    /// # Errors
    ///
    /// [`OpenError`]; those of `open` as [`OpenError::Open`].
    pub fn open_on(
        head: S,
        mut open: impl FnMut(&str) -> Result<S>,
        options: &Options,
    ) -> std::result::Result<Self, OpenError> {
        let open = |name: &str| {
            check_name(name, None, options)?;
            open(name).map_err(|source| OpenError::Open {
                path: name.into(),
                source,
            })
        };
        Self::assemble(head, open, options, None)
    }

    fn assemble(
        head: S,
        open: impl FnMut(&str) -> std::result::Result<S, OpenError>,
        options: &Options,
        lock: Option<Lock>,
    ) -> std::result::Result<Self, OpenError> {
        let Found {
            descriptor,
            parts,
            descriptor_at,
            files,
            sectors,
            repaired,
        } = find(&head, open, options)?;
        Ok(Self {
            cid: AtomicU32::new(descriptor.cid),
            descriptor,
            head,
            descriptor_at,
            parts,
            files,
            parent: options.parent.clone(),
            read_only: options.read_only,
            sectors: AtomicU64::new(sectors),
            marked: AtomicBool::new(false),
            marking: Mutex::new(()),
            failed: AtomicBool::new(false),
            repaired,
            _lock: lock,
        })
    }

    /// The descriptor, as it was when the image was opened.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The content id, as it is now: by it a child knows this image as its [`Parent`].
    #[must_use]
    pub fn cid(&self) -> u32 {
        self.cid.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Bytes of a grain, the unit of allocation; `None` where no part is sparse.
    #[must_use]
    pub fn grain(&self) -> Option<u64> {
        self.parts.iter().find_map(|part| match &part.kind {
            Kind::Sparse { sparse, .. } => Some(sparse.grain_bytes()),
            Kind::Flat { .. } | Kind::Zero => None,
        })
    }

    /// What was found when the image was opened, where it had not been closed by who wrote it last, and so was repaired.
    #[must_use]
    pub fn repaired(&self) -> Option<&Report> {
        self.repaired.as_ref()
    }

    /// Checks the tables against the file, each other and themselves. Reads all of them, and uses up to 64 MiB of memory for an extent; requests
    /// wait meanwhile. An image that is open for writing is flushed first; grains that are new since then show as leaked.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn check(&self) -> Result<Report> {
        if !self.read_only {
            self.flush_all()?;
        }
        let mut report = Report::default();
        for part in &self.parts {
            if let Kind::Sparse { sparse, .. } = &part.kind {
                report.add(&sparse.check()?);
            }
        }
        Ok(report)
    }

    /// Repairs what [`check`](Self::check) finds and says what that was: tables name only what is there and equal their copies; leaked
    /// grains at the end of the file are cut off, others given back to the host as holes (which stay "leaked"). Grains that are shared stay so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`] where the image is open for reading only; the host's.
    pub fn repair(&mut self) -> Result<Report> {
        if self.read_only {
            return Err(ErrorKind::PermissionDenied.into());
        }
        self.mark()?;
        self.flush_all()?;
        let mut report = Report::default();
        for part in &self.parts {
            if let Kind::Sparse { sparse, .. } = &part.kind {
                report.add(&sparse.repair()?);
            }
        }
        Ok(report)
    }
}

impl<S: Storage + Clone> Drop for Vmdk<S> {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "a VMDK could not be closed");
        }
    }
}

/// Opens a file that can be an extent; only the image itself may be a link without being asked for.
fn open_file(path: &Path, options: &Options, head: bool) -> Result<Arc<File>> {
    // Without O_NONBLOCK, opening a pipe would hang before it could be seen to be one.
    let mut flags = OFlags::NONBLOCK;
    if !head && !options.any_extent {
        flags |= OFlags::NOFOLLOW;
    }
    let file = FileOptions::new()
        .read(true)
        .write(!options.read_only)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let kind = file.metadata()?.file_type();
    let device = kind.is_block_device() && options.any_extent && !head;
    if kind.is_file() || device {
        Ok(Arc::new(file))
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, "not a file"))
    }
}
