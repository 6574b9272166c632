//! Making images.

use std::error::Error;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use crate::{DiskError, ImageFormat};

/// An image to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSpec {
    /// Its format.
    pub format: ImageFormat,
    /// The disk's size in bytes, a multiple of 512.
    pub size: u64,
    /// Whether all its space is taken at once: a fixed VHD, a flat VMDK, a raw file without holes, qcow2 tables without holes.
    pub preallocate: bool,
    /// The parent that it is to show where it has nothing of its own, with that one's format; VHD and qcow2 only. The size is then the
    /// parent's where `size` is 0.
    pub parent: Option<(PathBuf, ImageFormat)>,
    /// The unit in which space is taken, in bytes, where the format lets one choose: VHD's blocks, qcow2's clusters, VMDK's grains.
    pub unit: Option<u32>,
}

impl CreateSpec {
    /// An image that stands alone and takes space as it is written.
    #[must_use]
    pub fn new(format: ImageFormat, size: u64) -> Self {
        Self {
            format,
            size,
            preallocate: false,
            parent: None,
            unit: None,
        }
    }
}

type Cause = Box<dyn Error + Send + Sync>;

/// Makes an image where no file is.
///
/// # Errors
///
/// [`DiskError::Create`].
pub fn create(path: &Path, spec: &CreateSpec) -> Result<(), DiskError> {
    create_for(path, path, spec)
}

/// As [`create`], where the image is going to be moved to `place` under the same name: what it says of its parent is right there.
///
/// # Errors
///
/// [`DiskError::Create`].
pub fn create_for(path: &Path, place: &Path, spec: &CreateSpec) -> Result<(), DiskError> {
    let failed = |source| DiskError::Create {
        path: place.to_owned(),
        format: spec.format,
        source,
    };
    if spec.parent.is_none() && (spec.size == 0 || !spec.size.is_multiple_of(512)) {
        let error = format!("{} bytes are no disk: whole sectors of 512 are", spec.size);
        return Err(failed(error.into()));
    }
    match spec.format {
        ImageFormat::Raw => raw(path, spec),
        ImageFormat::Vhd => vhd(path, place, spec),
        ImageFormat::Qcow2 => qcow2(path, place, spec),
        ImageFormat::Vmdk => vmdk(path, spec),
    }
    .map_err(failed)
}

fn no_parent(spec: &CreateSpec) -> Result<(), Cause> {
    match spec.parent {
        Some(_) => Err(format!("{} images have no parents here", spec.format).into()),
        None => Ok(()),
    }
}

fn raw(path: &Path, spec: &CreateSpec) -> Result<(), Cause> {
    no_parent(spec)?;
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let made = file.set_len(spec.size).and_then(|()| {
        if spec.preallocate {
            allocate(&file, spec.size)?;
        }
        file.sync_all()
    });
    if let Err(error) = made {
        // It did not exist before.
        let _ = std::fs::remove_file(path);
        return Err(error.into());
    }
    Ok(())
}

fn allocate(file: &std::fs::File, len: u64) -> io::Result<()> {
    use std::os::fd::AsFd;
    let flags = rustix::fs::FallocateFlags::empty();
    Ok(rustix::fs::fallocate(file.as_fd(), flags, 0, len)?)
}

fn vhd(path: &Path, place: &Path, spec: &CreateSpec) -> Result<(), Cause> {
    use cantle_vhd::{CreateOptions, ParentDisk, Parents, Vhd};
    let sectors = spec.size / 512;
    let mut options = match &spec.parent {
        None if spec.preallocate => CreateOptions::fixed(sectors),
        None => CreateOptions::dynamic(sectors),
        Some((parent, ImageFormat::Raw)) => CreateOptions::differencing(ParentDisk::raw(parent)?),
        Some((parent, ImageFormat::Vhd)) => {
            CreateOptions::differencing(ParentDisk::vhd(parent, Parents::Any)?)
        }
        Some((_, other)) => {
            return Err(format!("a VHD's parent is a VHD or raw, not {other}").into());
        }
    };
    if let Some(unit) = spec.unit {
        options.block_size = unit;
    }
    if spec.parent.is_some() && spec.size != 0 {
        options.sectors = Some(sectors);
    }
    let folder = match place.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    options.folder = Some(folder.canonicalize()?);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    if let Err(error) = Vhd::create(std::sync::Arc::new(file), &options) {
        // It did not exist before.
        let _ = std::fs::remove_file(path);
        return Err(error.into());
    }
    Ok(())
}

fn qcow2(path: &Path, place: &Path, spec: &CreateSpec) -> Result<(), Cause> {
    use cantle_qcow2::{BackingName, CreateOptions, Preallocation, create_path};
    let mut options = CreateOptions::new(spec.size);
    if let Some((parent, format)) = &spec.parent {
        let folder = place.parent().unwrap_or(Path::new(""));
        // As the image will read it: from its own folder.
        let opened = crate::open_format(&folder.join(parent), *format, true, &crate::Parents::Any)?;
        if spec.size == 0 {
            options.size = opened.geometry().bytes();
        }
        let name = match format {
            ImageFormat::Vhd => "vpc",
            other => other.name(),
        };
        options.backing = Some(BackingName {
            name: parent.clone().into_os_string(),
            format: Some(name.to_owned()),
        });
    }
    if let Some(unit) = spec.unit {
        options.cluster_size = unit.into();
    }
    if spec.preallocate {
        options.preallocation = Preallocation::Metadata;
    }
    create_path(path, &options)?;
    Ok(())
}

fn vmdk(path: &Path, spec: &CreateSpec) -> Result<(), Cause> {
    use cantle_vmdk::{CreateKind, create};
    no_parent(spec)?;
    let kind = if spec.preallocate {
        CreateKind::Flat { preallocate: true }
    } else {
        CreateKind::Sparse {
            grain: spec.unit.unwrap_or(64 << 10),
        }
    };
    create(path, spec.size / 512, kind)?;
    Ok(())
}
