//! What can go wrong before a disk is there.

use std::io;
use std::path::PathBuf;

use crate::Kind;

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It does not exist, or may not be opened so.
    #[error("cannot open VHD image {path:?}")]
    Open {
        /// The image.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The path is a directory, a pipe or the like.
    #[error("VHD image {path:?} is neither a file nor a block device")]
    NoDisk {
        /// The image.
        path: PathBuf,
    },
    /// Reading it, or the repair of its footer, failed.
    #[error("cannot read the VHD image's {what}")]
    Io {
        /// What was being read or written.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// There is no valid footer, neither at the end nor at the start.
    #[error("no VHD footer is at the image's end, and no valid copy at its start")]
    NotVhd,
    /// The footer at the end and the one at the start are of different images. One of the two is what a guest wrote: which one, only
    /// [`OpenOptions::expect`](crate::OpenOptions::expect) can tell.
    #[error(
        "the footer at the end says {end}, the one at the start {start}, and they do not belong together"
    )]
    Ambiguous {
        /// What the end says.
        end: Kind,
        /// What the start says.
        start: Kind,
    },
    /// It is of another kind than the caller expects.
    #[error("the image is {found}, not {expected}")]
    Kind {
        /// What the caller expects.
        expected: Kind,
        /// What it is.
        found: Kind,
    },
    /// A field has a value that makes no sense, or that is more than is worked with.
    #[error("{field} of the VHD image cannot be {value:#x}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The parent of a differencing image is the matter.
    #[error("the parent of the differencing image cannot be used")]
    Parent(#[source] Box<ParentError>),
}

/// Why a differencing image's parent cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParentError {
    /// [`Parents::Refuse`](crate::Parents::Refuse).
    #[error("the caller allows no parents")]
    Refused,
    /// None of the names that the image gives its parent is a file's.
    #[error("none of {tried:?} exists")]
    NotFound {
        /// The names.
        tried: Vec<PathBuf>,
    },
    /// The parent is not in the folder of [`Parents::InFolder`](crate::Parents::InFolder).
    #[error("{path:?} is outside {folder:?}")]
    Outside {
        /// The parent.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// The parent is another image than the child was made over.
    #[error("{path:?} is not the image that the child was made over")]
    Uuid {
        /// The parent.
        path: PathBuf,
        /// What the child says.
        expected: [u8; 16],
        /// What the parent is.
        found: [u8; 16],
    },
    /// The parent was written to after the child was made, and the caller minds.
    #[error("{path:?} was modified at {found}, not at {expected} (seconds of 2000)")]
    Modified {
        /// The parent.
        path: PathBuf,
        /// What the child says.
        expected: u32,
        /// What the file says.
        found: u32,
    },
    /// The image is, through its parents, its own parent.
    #[error("{path:?} is its own ancestor")]
    Cycle {
        /// The image met again.
        path: PathBuf,
    },
    /// More than 64 images on top of each other.
    #[error("the chain of parents has more than {0} images")]
    TooDeep(usize),
    /// It cannot be opened.
    #[error("cannot open the parent {path:?}")]
    Open {
        /// The parent.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why an image cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The host's error.
    #[error("cannot write the new VHD image")]
    Io(#[from] io::Error),
    /// The file exists, or has contents.
    #[error("the file for the new VHD image is not empty")]
    NotEmpty,
    /// More than 2040 GiB, or nothing.
    #[error("a VHD disk cannot have {0} sectors")]
    Size(u64),
    /// Not a power of two between 4 KiB and 256 MiB, or so small that the table would have more than 8 Mi entries.
    #[error("{0} bytes cannot be the size of the blocks")]
    BlockSize(u32),
    /// A differencing image without a parent, or another one with.
    #[error("a parent goes with a differencing image, and with no other")]
    Parent,
    /// The parent's path is too long, or not UTF-8, which the format cannot say.
    #[error("{0:?} cannot be written as a parent's name")]
    ParentPath(PathBuf),
}

impl OpenError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    pub(crate) fn parent(error: ParentError) -> Self {
        Self::Parent(Box::new(error))
    }
}
