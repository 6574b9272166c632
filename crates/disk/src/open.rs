//! From what is wanted to a disk.

use std::error::Error;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cantle_image::{Disk, Format, FormatDisk, FormatOptions, RawDisk, RawFormat, RawOptions};
use cantle_layers::{Cache, CacheOptions, ChangedBlocks, Granularity, Throttle, ThrottleHandle};

use crate::lock::ImageLock;
use crate::spec::{DiskSpec, Overlay, Parents};
use crate::{DiskError, ImageFormat};

/// A disk, and the handles of what it is made of. While it or one of its queues lives, the image is open; it is locked while this lives.
pub struct OpenDisk {
    disk: Arc<dyn Disk>,
    kind: Kind,
    throttle: Option<ThrottleHandle>,
    changes: Option<Arc<ChangedBlocks>>,
    cache: Option<Arc<Cache>>,
    /// After `disk`, so that what is left of it goes when it is closed.
    _scratch: Option<Scratch>,
    lock: Mutex<Option<ImageLock>>,
    /// Nobody writes to what the image stands on.
    _parents: Vec<ImageLock>,
    spec: DiskSpec,
}

enum Kind {
    Raw(Arc<RawDisk>),
    Format(FormatDisk),
}

/// A file that goes with its disk.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = ?self.0, %error, "a disk's overlay could not be removed");
        }
    }
}

impl OpenDisk {
    /// The disk, to be served.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The limits, which may be changed at any time; `None` where the disk was opened without.
    #[must_use]
    pub fn throttle(&self) -> Option<&ThrottleHandle> {
        self.throttle.as_ref()
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &DiskSpec {
        &self.spec
    }

    /// Holds this lock from now on, and gives out the one that it held: the disk has another image now, or another disk has its image.
    pub fn exchange_lock(&self, lock: Option<ImageLock>) -> Option<ImageLock> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, lock)
    }

    /// What has changed, where that is tracked.
    #[must_use]
    pub fn changes(&self) -> Option<&Arc<ChangedBlocks>> {
        self.changes.as_ref()
    }

    /// The cache of what is read, where there is one.
    #[must_use]
    pub fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref()
    }

    /// The disk as one whose format can be exchanged while it is used: for a mirror or a snapshot. `None` for a plain raw disk, which goes a
    /// shorter way unless [`DiskSpec::live`] is set.
    #[must_use]
    pub fn live(&self) -> Option<&FormatDisk> {
        match &self.kind {
            Kind::Raw(_) => None,
            Kind::Format(disk) => Some(disk),
        }
    }

    /// Makes the disk larger, to so many sectors of 512 bytes; what is new reads as zeroes. Whoever serves it tells the guest.
    ///
    /// # Errors
    ///
    /// The host's; [`ErrorKind::InvalidInput`] for a smaller size, [`ErrorKind::Unsupported`] where the format cannot.
    pub fn grow(&self, sectors: u64) -> io::Result<()> {
        if sectors < self.disk.geometry().sectors {
            return Err(ErrorKind::InvalidInput.into());
        }
        match &self.kind {
            Kind::Raw(disk) => disk.grow(sectors),
            Kind::Format(disk) => disk.grow(sectors),
        }
    }
}

impl fmt::Debug for OpenDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenDisk")
            .field("geometry", &self.disk.geometry())
            .finish_non_exhaustive()
    }
}

/// Opens a disk.
///
/// # Errors
///
/// [`DiskError`].
pub fn open(spec: &DiskSpec) -> Result<OpenDisk, DiskError> {
    if spec.read_cache.is_some() && spec.overlay.is_none() && !spec.read_only {
        return Err(DiskError::Combination(
            "a disk whose reads are cached is not written: make it read-only, or give it an overlay",
        ));
    }
    let lock = match spec.lock {
        true => Some(lock(spec)?),
        false => None,
    };
    let mut parents = Vec::new();
    let (base, kind, changes, cache, scratch): (Arc<dyn Disk>, _, _, _, _) = if spec.is_plain() {
        let disk = Arc::new(open_raw(spec)?);
        (disk.clone(), Kind::Raw(disk), None, None, None)
    } else {
        let (format, changes, cache, scratch) = layers(spec)?;
        if spec.lock {
            parents = lock_others(spec, &*format)?;
        }
        let options = FormatOptions {
            queue_depth: spec.queue_depth,
            ..FormatOptions::default().cache(spec.cache)
        };
        let disk = FormatDisk::new(format, options).map_err(|source| DiskError::Serve {
            path: spec.path.clone(),
            source,
        })?;
        (
            Arc::new(disk.clone()),
            Kind::Format(disk),
            changes,
            cache,
            scratch,
        )
    };
    let (disk, throttle) = match spec.limits {
        None => (base, None),
        Some(limits) => {
            let throttled = Throttle::new(base, limits);
            let handle = throttled.handle();
            (Arc::new(throttled) as Arc<dyn Disk>, Some(handle))
        }
    };
    Ok(OpenDisk {
        disk,
        kind,
        throttle,
        changes,
        cache,
        _scratch: scratch,
        lock: Mutex::new(lock),
        _parents: parents,
        spec: spec.clone(),
    })
}

fn lock(spec: &DiskSpec) -> Result<ImageLock, DiskError> {
    let path = spec.path.clone();
    match ImageLock::take(&path, spec.image_is_read_only()) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(DiskError::Locked { path }),
        Err(source) => Err(DiskError::Lock { path, source }),
    }
}

/// Locks what the disk has open beside its own image against those who would write to it: parents, extents, an overlay.
fn lock_others(spec: &DiskSpec, format: &dyn Format) -> Result<Vec<ImageLock>, DiskError> {
    let failed = |source| DiskError::Lock {
        path: spec.path.clone(),
        source,
    };
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let own = identity(std::fs::metadata(&spec.path).map_err(failed)?);
    let mut locks = Vec::new();
    for file in format.files() {
        if identity(file.metadata().map_err(failed)?) == own {
            continue;
        }
        // The same file by another open one, as which it is locked.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match ImageLock::take(&path, true).map_err(failed)? {
            Some(lock) => locks.push(lock),
            None => {
                let path = std::fs::read_link(&path).unwrap_or(path);
                return Err(DiskError::Locked { path });
            }
        }
    }
    Ok(locks)
}

fn raw_options(spec: &DiskSpec) -> RawOptions {
    RawOptions {
        read_only: spec.image_is_read_only(),
        secure_discard: spec.secure_discard,
        sector_size: spec.sector_size,
        queue_depth: spec.queue_depth,
        ..RawOptions::default().cache(spec.cache)
    }
}

fn open_raw(spec: &DiskSpec) -> Result<RawDisk, DiskError> {
    RawDisk::open(&spec.path, &raw_options(spec)).map_err(|source| DiskError::Raw {
        path: spec.path.clone(),
        source,
    })
}

type Layers = (
    Arc<dyn Format>,
    Option<Arc<ChangedBlocks>>,
    Option<Arc<Cache>>,
    Option<Scratch>,
);

/// The format with what is over it, from the image upwards: cache, overlay, changes.
fn layers(spec: &DiskSpec) -> Result<Layers, DiskError> {
    let read_only = spec.image_is_read_only();
    let mut format = match spec.format {
        ImageFormat::Raw => {
            let opened = RawFormat::open(&spec.path, &raw_options(spec));
            Arc::new(opened.map_err(|source| DiskError::Raw {
                path: spec.path.clone(),
                source,
            })?) as Arc<dyn Format>
        }
        _ => open_format(&spec.path, spec.format, read_only, &spec.parents)?,
    };
    let mut cache = None;
    if let Some(folder) = &spec.read_cache {
        let options = CacheOptions::new(folder);
        let opened = Cache::open(format, &spec.path, &options);
        let opened = Arc::new(opened.map_err(layer(folder, "a cache of what is read"))?);
        format = opened.clone();
        cache = Some(opened);
    }
    let mut scratch = None;
    if let Some(overlay) = &spec.overlay {
        format = open_overlay(overlay, format, spec.read_only)?;
        scratch = (!overlay.keep).then(|| Scratch(overlay.path.clone()));
    }
    let mut changes = None;
    if let Some(path) = &spec.track_changes {
        let tracked = Arc::new(track(path, format)?);
        format = tracked.clone();
        changes = Some(tracked);
    }
    Ok((format, changes, cache, scratch))
}

/// What turns a layer's failure into ours.
fn layer<E: Into<Box<dyn Error + Send + Sync>>>(
    path: &Path,
    what: &'static str,
) -> impl FnOnce(E) -> DiskError {
    let path = path.to_owned();
    move |error| DiskError::Layer {
        path,
        what,
        source: error.into(),
    }
}

fn open_overlay(
    overlay: &Overlay,
    parent: Arc<dyn Format>,
    read_only: bool,
) -> Result<Arc<dyn Format>, DiskError> {
    let what = "an overlay";
    let there = overlay.path.exists();
    if there && !overlay.keep {
        let error = io::Error::new(
            ErrorKind::AlreadyExists,
            "it exists, and would be removed at the end",
        );
        return Err(layer(&overlay.path, what)(error));
    }
    let size = parent.geometry().bytes();
    if !there {
        let options = cantle_qcow2::CreateOptions::new(size);
        cantle_qcow2::create_path(&overlay.path, &options).map_err(layer(&overlay.path, what))?;
    }
    open_over(&overlay.path, parent, read_only)
}

fn open_over(
    path: &Path,
    parent: Arc<dyn Format>,
    read_only: bool,
) -> Result<Arc<dyn Format>, DiskError> {
    let options = cantle_qcow2::Options {
        read_only,
        backing: cantle_qcow2::Backing::Parent(parent),
        ..cantle_qcow2::Options::default()
    };
    let opened = cantle_qcow2::Qcow2::open_path(path, &options);
    Ok(Arc::new(opened.map_err(layer(path, "an overlay"))?))
}

/// Opens a qcow2 image as what is written over `parent`, whatever the image says of a parent.
///
/// # Errors
///
/// [`DiskError::Layer`].
pub fn overlay(path: &Path, parent: Arc<dyn Format>) -> Result<Arc<dyn Format>, DiskError> {
    open_over(path, parent, false)
}

fn track(path: &Path, format: Arc<dyn Format>) -> Result<ChangedBlocks, DiskError> {
    let what = "a list of what has changed";
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(layer(path, what))?;
    let new = file.metadata().map_err(layer(path, what))?.len() == 0;
    let file: Box<Arc<File>> = Box::new(Arc::new(file));
    let tracked = if new {
        ChangedBlocks::create(format, file, Granularity::default())
    } else {
        ChangedBlocks::open(format, file)
    };
    tracked.map_err(layer(path, what))
}

/// Opens an image as a [`Format`], without layers or locks: for tools.
///
/// # Errors
///
/// [`DiskError`].
pub fn open_format(
    path: &Path,
    format: ImageFormat,
    read_only: bool,
    parents: &Parents,
) -> Result<Arc<dyn Format>, DiskError> {
    let failed = |source: Box<dyn Error + Send + Sync>| DiskError::Format {
        path: path.to_owned(),
        format,
        source,
    };
    let folder = match parents {
        Parents::SameFolder => Some(path.parent().unwrap_or(Path::new("")).to_owned()),
        Parents::InFolder(folder) => Some(folder.clone()),
        Parents::Refuse | Parents::Any => None,
    };
    // A file's folder may be the present one, which has an empty name.
    let folder = folder.map(|folder| match folder.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => folder,
    });
    let any = *parents == Parents::Any;
    Ok(match format {
        ImageFormat::Raw => {
            let options = RawOptions {
                read_only,
                ..RawOptions::default()
            };
            let opened = RawFormat::open(path, &options).map_err(|source| DiskError::Raw {
                path: path.to_owned(),
                source,
            })?;
            Arc::new(opened)
        }
        ImageFormat::Vhd => {
            let options = cantle_vhd::OpenOptions {
                read_only,
                parents: match folder {
                    Some(folder) => cantle_vhd::Parents::InFolder(folder),
                    None if any => cantle_vhd::Parents::Any,
                    None => cantle_vhd::Parents::Refuse,
                },
                ..cantle_vhd::OpenOptions::default()
            };
            Arc::new(cantle_vhd::Vhd::open_path(path, &options).map_err(|e| failed(e.into()))?)
        }
        ImageFormat::Qcow2 => {
            let options = cantle_qcow2::Options {
                read_only,
                backing: match folder {
                    Some(folder) => cantle_qcow2::Backing::InFolder(folder),
                    None if any => cantle_qcow2::Backing::Any,
                    None => cantle_qcow2::Backing::Refuse,
                },
                ..cantle_qcow2::Options::default()
            };
            let opened = cantle_qcow2::Qcow2::open_path(path, &options);
            Arc::new(opened.map_err(|e| failed(e.into()))?)
        }
        ImageFormat::Vmdk => {
            let options = cantle_vmdk::Options {
                read_only,
                ..cantle_vmdk::Options::default()
            };
            let opened = cantle_vmdk::Vmdk::open(path, &options);
            Arc::new(opened.map_err(|e| failed(e.into()))?)
        }
    })
}
