//! Why a disk cannot be had.

use std::io;
use std::path::PathBuf;

/// Why a disk cannot be opened or made. Each says which file it is about; the cause says why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// A raw image.
    #[error("cannot use raw disk image {path:?}")]
    Raw {
        /// The image.
        path: PathBuf,
        /// Why.
        source: cantle_image::OpenError,
    },
    /// An image of another format.
    #[error("cannot use {format} disk image {path:?}")]
    Format {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: crate::ImageFormat,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image cannot be served.
    #[error("cannot serve disk image {path:?}")]
    Serve {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// Somebody else uses it in a way that excludes this one.
    #[error("disk image {path:?} is in use by somebody else")]
    Locked {
        /// The image.
        path: PathBuf,
    },
    /// The image cannot be locked.
    #[error("cannot lock disk image {path:?}")]
    Lock {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A layer's file or folder.
    #[error("cannot use {path:?} as {what}")]
    Layer {
        /// The file or folder.
        path: PathBuf,
        /// What it was to be.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A combination that cannot be.
    #[error("{0}")]
    Combination(&'static str),
    /// An image cannot be made.
    #[error("cannot make {format} disk image {path:?}")]
    Create {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: crate::ImageFormat,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
