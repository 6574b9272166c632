//! Why an image cannot be opened.

use std::io;
use std::path::PathBuf;

use crate::{DescriptorError, LayoutError};

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The image or an extent does not exist, or may not be opened so.
    #[error("cannot open {path:?}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The host cannot read it, or not write what a repair needs.
    #[error("cannot read the image")]
    Io(#[source] io::Error),
    /// The descriptor is none.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// A sparse extent is none.
    #[error("extent {extent}: {source}")]
    Sparse {
        /// Which extent, from 0.
        extent: usize,
        /// What is wrong with it.
        source: LayoutError,
    },
    /// A kind of image or extent that is not supported.
    #[error("images of the kind {0:?} are not supported")]
    Kind(String),
    /// An extent's file is not a plain name, is the descriptor's own, or is another extent's.
    #[error("the extent {0:?} may not be used: only plain names, each once")]
    Name(String),
    /// An extent is larger than its file, or the disk larger than anything.
    #[error("extent {extent} has {there} sectors instead of {sectors}")]
    Size {
        /// Which extent, from 0.
        extent: usize,
        /// How many sectors it should have.
        sectors: u64,
        /// How many are there.
        there: u64,
    },
    /// The image is a delta to a parent, which was not given.
    #[error("the image is a delta to {hint:?} (content id {cid:08x}), which was not given")]
    Parent {
        /// The parent's content id.
        cid: u32,
        /// Where the image says it is.
        hint: Option<String>,
    },
    /// The parent that was given is not what the image is a delta to; no parent: [`NO_PARENT`](crate::descriptor::NO_PARENT).
    #[error("the image is a delta to content id {wanted:08x}, not to {given:08x}")]
    WrongParent {
        /// The image's word.
        wanted: u32,
        /// The parent's own.
        given: u32,
    },
    /// This can only be opened for reading.
    #[error("the image can only be opened for reading: {0}")]
    ReadOnly(&'static str),
}
