//! What is wanted of a disk.

use std::path::{Path, PathBuf};

use cantle_image::CacheMode;
use cantle_layers::Limits;

use crate::ImageFormat;

/// A disk: a file in a format, how it is used, and the layers over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// The image, or a block device.
    pub path: PathBuf,
    /// Its format. Never guessed.
    pub format: ImageFormat,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What the host's caches are used for, and what a flush means.
    pub cache: CacheMode,
    /// Which files may be opened because an image names them.
    pub parents: Parents,
    /// The guest's sector size, for raw images: 512 or 4096; `None`: what the image has.
    pub sector_size: Option<u32>,
    /// Offers secure discards on raw images: what is discarded so is overwritten.
    pub secure_discard: bool,
    /// Reads of the image, which is then not written, are kept in this folder on a local disk, for all guests that use the same image.
    pub read_cache: Option<PathBuf>,
    /// Writes go to a private image over this one.
    pub overlay: Option<Overlay>,
    /// What changes is noted in this file, which is made where it is missing, for backups of what has changed.
    pub track_changes: Option<PathBuf>,
    /// Whether a plain raw disk, too, goes the way on which its format can be exchanged while it is used ([`OpenDisk::live`](crate::OpenDisk::live)). All others do.
    pub live: bool,
    /// How much it may do per second. `None`: no limits, and none can be set later; then nothing looks at them at each request.
    pub limits: Option<Limits>,
    /// Requests that each queue has in the kernel at once.
    pub queue_depth: u16,
    /// Whether the image is locked against others that would write to it, in QEMU's way. For images that others are known to share.
    pub lock: bool,
}

impl DiskSpec {
    /// A writable disk with nothing over it.
    #[must_use]
    pub fn new(path: impl AsRef<Path>, format: ImageFormat) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            format,
            read_only: false,
            cache: CacheMode::default(),
            parents: Parents::default(),
            sector_size: None,
            secure_discard: false,
            read_cache: None,
            overlay: None,
            track_changes: None,
            live: false,
            limits: None,
            queue_depth: 128,
            lock: true,
        }
    }

    /// Whether the image itself is not written.
    pub(crate) fn image_is_read_only(&self) -> bool {
        self.read_only || self.overlay.is_some() || self.read_cache.is_some()
    }

    /// Whether any layer, or the format, needs more than the file itself.
    pub(crate) fn is_plain(&self) -> bool {
        self.format == ImageFormat::Raw
            && self.read_cache.is_none()
            && self.overlay.is_none()
            && self.track_changes.is_none()
            && !self.live
    }
}

/// A private image for what a guest writes: qcow2, over the disk's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The private image. Made where it is missing.
    pub path: PathBuf,
    /// Whether it is kept when the disk is closed, and used again when it is there. If not, one that is there already is an error.
    pub keep: bool,
}

/// Which files may be opened because an image names them as its parent. An image's bytes come from whoever made it: one that a tenant has
/// brought can name any file of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Parents {
    /// None.
    #[default]
    Refuse,
    /// Those in the image's own folder and below it.
    SameFolder,
    /// Those in this folder and below it.
    InFolder(PathBuf),
    /// Whatever an image names.
    Any,
}
