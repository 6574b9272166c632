//! Images, opened one by one and with what they stand on.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use cantle_disk::{ImageFormat, ImageLock, open_format, probe};
use cantle_image::{Extent, Format, Geometry, Mapped, RawFormat, RawOptions};
use cantle_qcow2::{Backing, Qcow2};
use cantle_vhd::Vhd;
use cantle_vmdk::Vmdk;

use crate::chain;
use crate::cli::Policy;

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Reading, with nobody who writes.
    Read,
    /// Reading, whoever writes.
    ReadShared,
    /// Writing, with nobody else.
    Write,
}

/// One image, without what it stands on.
pub(crate) enum Image {
    Raw(RawFormat<Arc<File>>),
    Vhd(Box<Vhd>),
    Qcow2(Box<Qcow2>),
    Vmdk(Box<Vmdk>),
}

impl Image {
    /// Opens an image over `below`, whatever it says of its parent. It is not locked.
    pub(crate) fn open(
        path: &Path,
        format: ImageFormat,
        read_only: bool,
        below: Arc<dyn Format>,
    ) -> Result<Self> {
        let opened = Self::open_inner(path, format, read_only, below);
        opened.with_context(|| format!("cannot use {format} image {}", path.display()))
    }

    fn open_inner(
        path: &Path,
        format: ImageFormat,
        read_only: bool,
        below: Arc<dyn Format>,
    ) -> Result<Self> {
        Ok(match format {
            ImageFormat::Raw => Self::Raw(RawFormat::open(
                path,
                &RawOptions {
                    read_only,
                    ..RawOptions::default()
                },
            )?),
            ImageFormat::Vhd => Self::Vhd(Box::new(Vhd::open_path(
                path,
                &cantle_vhd::OpenOptions {
                    read_only,
                    parents: cantle_vhd::Parents::Given(below),
                    ..cantle_vhd::OpenOptions::default()
                },
            )?)),
            ImageFormat::Qcow2 => {
                let mut options = cantle_qcow2::Options {
                    read_only,
                    backing: Backing::Absent,
                    ..cantle_qcow2::Options::default()
                };
                let file = Arc::new(File::open(path)?);
                // One that names none has none, also here.
                if Qcow2::inspect(&file)?.backing.is_some() {
                    options.backing = Backing::Parent(below);
                }
                Self::Qcow2(Box::new(Qcow2::open_path(path, &options)?))
            }
            ImageFormat::Vmdk => {
                let mut options = cantle_vmdk::Options {
                    read_only,
                    ..cantle_vmdk::Options::default()
                };
                let opened = Vmdk::open(path, &options);
                Self::Vmdk(Box::new(match opened {
                    Err(cantle_vmdk::OpenError::Parent { .. }) => {
                        options.parent = Some(cantle_vmdk::Parent {
                            format: below,
                            cid: None,
                        });
                        Vmdk::open(path, &options)?
                    }
                    opened => opened?,
                }))
            }
        })
    }

    pub(crate) fn format(&self) -> &dyn Format {
        match self {
            Self::Raw(image) => image,
            Self::Vhd(image) => &**image,
            Self::Qcow2(image) => &**image,
            Self::Vmdk(image) => &**image,
        }
    }

    /// Whether it stands on another one.
    pub(crate) fn has_parent(&self) -> bool {
        match self {
            Self::Raw(_) => false,
            Self::Vhd(image) => image.parent().is_some(),
            Self::Qcow2(image) => image.parent().is_some(),
            Self::Vmdk(image) => {
                image.descriptor().parent_cid != cantle_vmdk::descriptor::NO_PARENT
            }
        }
    }

    /// How many of its format's files are its own: the first ones.
    pub(crate) fn own_files(&self, below: &Below) -> usize {
        let all = self.format().files().len();
        match self.has_parent() {
            true => all.saturating_sub(below.files().len()),
            false => all,
        }
    }
}

/// What stands for a parent that is not looked at: all of it is data, of the one file that it has.
pub(crate) struct Below(Arc<File>);

impl Below {
    pub(crate) fn new() -> Result<Self> {
        let file = File::open("/dev/null").context("cannot open /dev/null")?;
        Ok(Self(Arc::new(file)))
    }
}

impl Format for Below {
    fn geometry(&self) -> Geometry {
        Geometry {
            read_only: true,
            // No image's bytes are more.
            ..Geometry::new(i64::MAX.unsigned_abs() / 512)
        }
    }
    fn files(&self) -> Vec<Arc<File>> {
        vec![Arc::clone(&self.0)]
    }
    fn map(&self, offset: u64, len: u64) -> io::Result<Mapped> {
        let extent = Extent::Data {
            file: 0,
            offset,
            writable: false,
        };
        Ok(Mapped { extent, len })
    }
    fn read(&self, _offset: u64, _into: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(
            ErrorKind::Unsupported,
            "the parent is not open",
        ))
    }
    fn write(&self, _offset: u64, _from: &[u8]) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }
    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// An image with what it stands on, locked.
pub(crate) struct Opened {
    /// Closed before it is unlocked.
    pub(crate) format: Arc<dyn Format>,
    pub(crate) kind: ImageFormat,
    _locks: Vec<ImageLock>,
}

impl Opened {
    /// Opens an image. Its parents are locked for reading, whatever it is opened for.
    pub(crate) fn open(
        path: &Path,
        given: Option<ImageFormat>,
        policy: Policy,
        how: Use,
    ) -> Result<Self> {
        let kind = choose(path, given)?;
        let mut locks = Vec::new();
        if how != Use::ReadShared {
            locks.push(lock(path, how == Use::Read)?);
            for parent in chain::parents(path, kind, policy)? {
                locks.push(lock(&parent.path, true)?);
            }
        }
        let format = open_format(path, kind, how != Use::Write, &policy.parents())?;
        Ok(Self {
            format,
            kind,
            _locks: locks,
        })
    }
}

/// Locks an image: many may read, or one may write.
pub(crate) fn lock(path: &Path, read_only: bool) -> Result<ImageLock> {
    let locked = ImageLock::take(path, read_only);
    let locked = locked.with_context(|| format!("cannot lock {}", path.display()))?;
    locked.with_context(|| {
        let hint = if read_only { "writing to" } else { "using" };
        format!("cannot use {}: somebody else is {hint} it", path.display())
    })
}

/// The format that an image is used in: the one given, or what its name says. What it looks like is no reason, but worth a warning.
pub(crate) fn choose(path: &Path, given: Option<ImageFormat>) -> Result<ImageFormat> {
    must_be_image(path)?;
    if let Some(given) = given {
        return Ok(given);
    }
    let named = ImageFormat::by_name(path);
    if named == ImageFormat::Raw
        && let Ok(looks) = probe(path)
        && looks != named
    {
        eprintln!(
            "cantle-img: {} looks like {looks}, and is used as raw, as its name says; if it is {looks}, say so by -f",
            path.display()
        );
    }
    Ok(named)
}

/// Refuses folders, pipes and the like, which the host has strange words for.
pub(crate) fn must_be_image(path: &Path) -> Result<()> {
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot open {}", path.display()))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        bail!("cannot open {}: it is a directory", path.display());
    }
    ensure!(
        kind.is_file() || kind.is_block_device(),
        "cannot open {}: it is neither a file nor a block device",
        path.display()
    );
    Ok(())
}
