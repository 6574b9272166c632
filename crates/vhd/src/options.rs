//! How to open and how to make an image.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use cantle_image::Format;

use crate::ParentDisk;

/// The three kinds of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All of the disk's bytes, one after the other.
    Fixed,
    /// Blocks, made when they are first written to.
    Dynamic,
    /// Blocks of what differs from a parent.
    Differencing,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        })
    }
}

/// Which of a footer's two sizes counts.
///
/// The cylinders, heads and sectors say a size of about the current size. Virtual PC, Virtual Server and QEMU (as `qemu`) make the disk
/// as large as they say; Hyper-V, Xen, QEMU (as `qem2`, by `force_size`), Disk2vhd, Azure and `VirtualBox` as large as the current size. With the
/// wrong one a guest's last sectors are missing, or its partition table's end is elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SizeRule {
    /// By the name of the program that made the image: the current size, but for `vpc `, `vs  ` and `qemu` the geometry.
    #[default]
    ByCreator,
    /// The geometry.
    Chs,
    /// The current size, as the specification has it.
    Current,
}

// Where the geometry says as much as it can (65535 × 16 × 255), it says nothing, and the current size counts by each rule.

/// Which files may be opened because a differencing image names them as its parent.
///
/// An image's bytes come from whoever made it: one that was uploaded by a tenant can name any file of the host, and its disk would
/// then show that file. So the default is not to open any.
#[derive(Clone, Default)]
pub enum Parents {
    /// None: a differencing image does not open.
    #[default]
    Refuse,
    /// Those in this folder and below it, after all links.
    InFolder(PathBuf),
    /// This disk is the parent, whatever the image says. Its identity is not checked.
    Given(Arc<dyn Format>),
    /// Whatever an image names. Only for images that are trusted like the host's own files.
    Any,
}

impl fmt::Debug for Parents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse => f.write_str("Refuse"),
            Self::InFolder(folder) => f.debug_tuple("InFolder").field(folder).finish(),
            Self::Given(_) => f.write_str("Given(_)"),
            Self::Any => f.write_str("Any"),
        }
    }
}

/// How to open an image. The default: writable, no parents, the size by the image's creator.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Open for reading only: nothing is repaired, and writes fail.
    pub read_only: bool,
    /// Which parents may be opened, for the whole chain.
    pub parents: Parents,
    /// Refuse a parent that was modified since the child was made, by the file's time; else that is logged. Copies of files and
    /// restored backups have other times too.
    pub strict_parent_time: bool,
    /// Which size counts.
    pub size: SizeRule,
    /// Refuse an image of another kind. A guest can write what looks like a footer into a fixed disk's first sector; one that is known to
    /// be fixed is opened as such.
    pub expect: Option<Kind>,
}

/// What image to make.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Its kind.
    pub kind: Kind,
    /// The disk's size in sectors of 512 bytes; for a differencing image `None`: as large as the parent.
    pub sectors: Option<u64>,
    /// Bytes of a block: a power of two. 2 MiB unless there is a reason.
    pub block_size: u32,
    /// The image's identity; `None`: random.
    pub uuid: Option<[u8; 16]>,
    /// A differencing image's parent.
    pub parent: Option<ParentDisk>,
    /// The folder that the image will be in, for the relative path to the parent.
    /// [`Vhd::create_path`](crate::Vhd::create_path) knows it by itself.
    pub folder: Option<PathBuf>,
}

impl CreateOptions {
    /// A dynamic image of so many sectors.
    #[must_use]
    pub fn dynamic(sectors: u64) -> Self {
        Self {
            kind: Kind::Dynamic,
            sectors: Some(sectors),
            block_size: 2 << 20,
            uuid: None,
            parent: None,
            folder: None,
        }
    }

    /// A fixed image of so many sectors.
    #[must_use]
    pub fn fixed(sectors: u64) -> Self {
        Self {
            kind: Kind::Fixed,
            ..Self::dynamic(sectors)
        }
    }

    /// A differencing image over `parent`, of the same size.
    #[must_use]
    pub fn differencing(parent: ParentDisk) -> Self {
        Self {
            kind: Kind::Differencing,
            sectors: None,
            parent: Some(parent),
            ..Self::dynamic(0)
        }
    }
}
