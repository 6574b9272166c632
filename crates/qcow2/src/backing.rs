//! Backing files: whether the name in an image is followed, and how.
//!
//! The name is whatever the image's writer chose, and who may write images may not be who may read the host's files. So it is not
//! followed unless the caller says so; its format must be stated in the image, since a raw disk's guest can make it look like any
//! other format; and it must be a plain file's name, never a protocol.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cantle_image::{Format, RawFormat, RawOptions};

use crate::header::BackingName;
use crate::{OpenError, Options, Qcow2};

/// How many images may stand on each other.
const MAX_DEPTH: usize = 32;

/// Opens what an image names as its backing file, for reading. The caller decides what the name means.
pub type Opener = Arc<dyn Fn(&BackingName) -> io::Result<Arc<dyn Format>> + Send + Sync>;

/// What to do where an image names a backing file.
#[derive(Clone, Default)]
pub enum Backing {
    /// The image is not opened.
    #[default]
    Refuse,
    /// This is the parent, whatever the image says; also if it names none.
    Parent(Arc<dyn Format>),
    /// The file is opened if it is in this folder or below, after links are followed. The same holds for its own backing file.
    InFolder(PathBuf),
    /// The file is opened, wherever it is. Only for images whose writer may read all that this process can.
    Any,
    /// This opens it.
    By(Opener),
    /// The image is opened as if it named none, so what the parent has reads as zeroes. For tools that look at tables.
    Absent,
}

/// Why a backing file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackingError {
    /// There is one, and that was not allowed.
    #[error("the image names backing file {:?}, which was not allowed", .0.name)]
    Refused(BackingName),
    /// The image does not say what format it has. Guessing would let a raw disk's guest choose.
    #[error("the image does not state the format of backing file {:?}", .0.name)]
    NoFormat(BackingName),
    /// A format that is not known here.
    #[error("backing file {:?} has format {:?}", .0.name, .0.format)]
    Format(BackingName),
    /// It looks like a protocol, not a file's name.
    #[error("backing file {:?} is not a plain file", .0.name)]
    Protocol(BackingName),
    /// It is not in the folder that was allowed.
    #[error("backing file {path:?} is outside of {folder:?}")]
    Outside {
        /// The file, with links followed.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// An image is below itself.
    #[error("the chain of backing files comes back to {0:?}")]
    Cycle(PathBuf),
    /// Too many images.
    #[error("more than {MAX_DEPTH} images stand on each other")]
    Depth,
    /// It cannot be opened.
    #[error("cannot open backing file {:?}", .name.name)]
    Io {
        /// Which.
        name: BackingName,
        /// What the host said.
        source: io::Error,
    },
    /// It is not a raw disk that can be used.
    #[error("cannot open raw backing file {:?}", .name.name)]
    Raw {
        /// Which.
        name: BackingName,
        /// Why.
        source: Box<cantle_image::OpenError>,
    },
    /// It is not a qcow2 image that can be used.
    #[error("cannot open qcow2 backing file {:?}", .name.name)]
    Qcow2 {
        /// Which.
        name: BackingName,
        /// Why.
        source: Box<OpenError>,
    },
}

/// The images that stand on what is opened now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    seen: HashSet<(u64, u64)>,
    folder: Option<PathBuf>,
}

impl Chain {
    /// With one more, whose folder is what names in it are relative to.
    pub(crate) fn with(&self, path: &Path) -> Result<Self, BackingError> {
        let mut chain = self.clone();
        if let Ok(meta) = path.metadata()
            && !chain.seen.insert((meta.dev(), meta.ino()))
        {
            return Err(BackingError::Cycle(path.to_owned()));
        }
        if chain.seen.len() > MAX_DEPTH {
            return Err(BackingError::Depth);
        }
        chain.folder = Some(path.parent().unwrap_or(Path::new("")).to_owned());
        Ok(chain)
    }
}

impl Backing {
    pub(crate) fn parent(
        &self,
        name: Option<&BackingName>,
        chain: &Chain,
    ) -> Result<Option<Arc<dyn Format>>, BackingError> {
        if let Self::Parent(parent) = self {
            return Ok(Some(Arc::clone(parent)));
        }
        let Some(name) = name else { return Ok(None) };
        let io = |source| BackingError::Io {
            name: name.clone(),
            source,
        };
        match self {
            Self::Refuse => Err(BackingError::Refused(name.clone())),
            Self::Absent => Ok(None),
            Self::By(opener) => opener(name).map(Some).map_err(io),
            Self::Parent(parent) => Ok(Some(Arc::clone(parent))),
            Self::Any => {
                let path = place(name, chain.folder.as_deref())?;
                self.open(name, &path, chain).map(Some)
            }
            Self::InFolder(folder) => {
                let base = chain.folder.as_deref().unwrap_or(folder);
                let path = place(name, Some(base))?.canonicalize().map_err(io)?;
                let inside = folder.canonicalize().map_err(io)?;
                if !path.starts_with(&inside) {
                    return Err(BackingError::Outside {
                        path,
                        folder: inside,
                    });
                }
                self.open(name, &path, chain).map(Some)
            }
        }
    }

    fn open(
        &self,
        name: &BackingName,
        path: &Path,
        chain: &Chain,
    ) -> Result<Arc<dyn Format>, BackingError> {
        match name.format.as_deref() {
            None => Err(BackingError::NoFormat(name.clone())),
            Some("raw") => {
                let options = RawOptions {
                    read_only: true,
                    ..RawOptions::default()
                };
                let raw = RawFormat::open(path, &options);
                let raw = raw.map_err(|error| BackingError::Raw {
                    name: name.clone(),
                    source: Box::new(error),
                });
                Ok(Arc::new(raw?))
            }
            Some("qcow2") => {
                let options = Options {
                    read_only: true,
                    backing: self.clone(),
                    ..Options::default()
                };
                let image = Qcow2::open_path_in(path, &options, chain);
                let image = image.map_err(|error| BackingError::Qcow2 {
                    name: name.clone(),
                    source: Box::new(error),
                });
                Ok(Arc::new(image?))
            }
            Some(_) => Err(BackingError::Format(name.clone())),
        }
    }
}

/// The path that a name means.
fn place(name: &BackingName, base: Option<&Path>) -> Result<PathBuf, BackingError> {
    let bytes = name.name.as_bytes();
    // As QEMU sees it: what has a colon before the first slash names a protocol.
    let first = bytes.iter().find(|byte| matches!(byte, b':' | b'/'));
    if first == Some(&b':') {
        return Err(BackingError::Protocol(name.clone()));
    }
    Ok(base.unwrap_or(Path::new("")).join(&name.name))
}

impl std::fmt::Debug for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refuse => f.write_str("Refuse"),
            Self::Parent(_) => f.write_str("Parent"),
            Self::InFolder(folder) => f.debug_tuple("InFolder").field(folder).finish(),
            Self::Any => f.write_str("Any"),
            Self::By(_) => f.write_str("By"),
            Self::Absent => f.write_str("Absent"),
        }
    }
}
