//! Making images.

use std::ffi::OsString;
use std::fs::{File, OpenOptions as FileOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cantle_image::Storage;
use rustix::fs::FallocateFlags;

use crate::descriptor::DescriptorText;
use crate::sparse::header::{Header, MAX_GRAIN, MIN_GRAIN, TABLE_SECTORS};
use crate::sparse::layout::ADDRESSABLE;
use crate::vmdk::first_cid;

/// What kind of image to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateKind {
    /// `monolithicSparse`: one file, which grows as the disk is written.
    Sparse {
        /// Bytes of a grain, the unit of allocation: a power of two from 4 KiB to 1 MiB. VMware and QEMU make 64 KiB.
        grain: u32,
    },
    /// `monolithicFlat`: a descriptor `NAME.vmdk`, and `NAME-flat.vmdk` with the disk's bytes.
    Flat {
        /// Whether all of the host's blocks are taken at once.
        preallocate: bool,
    },
}

impl CreateKind {
    /// Sparse, with grains of 64 KiB.
    pub const SPARSE: Self = Self::Sparse { grain: 64 << 10 };
    /// Flat, whose blocks are taken as it is written.
    pub const FLAT: Self = Self::Flat { preallocate: false };
}

/// Why an image cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// No sectors, or more than the kind can have.
    #[error("a disk of {sectors} sectors cannot be a VMDK of this kind")]
    Size {
        /// What was asked for.
        sectors: u64,
    },
    /// A grain that there is not.
    #[error("grains of {0} bytes are not supported")]
    Grain(u32),
    /// A name that a descriptor cannot say.
    #[error("a VMDK cannot have the name {0:?}")]
    Name(PathBuf),
    /// The host's; `AlreadyExists` where there is such a file.
    #[error("cannot make {path:?}")]
    Host {
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// Makes an image of so many sectors of 512 bytes, all zeroes, where no file is. It is on the medium when this returns; after an error
/// there is nothing.
///
/// # Errors
///
/// [`CreateError`].
pub fn create(path: impl AsRef<Path>, sectors: u64, kind: CreateKind) -> Result<(), CreateError> {
    let path = path.as_ref();
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| CreateError::Name(path.to_owned()))?;
    match kind {
        CreateKind::Sparse { grain } => {
            let plan = Plan::new(sectors, grain, name)?;
            make(path, |file| plan.write(file))
        }
        CreateKind::Flat { preallocate } => {
            let len = sectors.checked_mul(512).filter(|len| *len != 0);
            let len = len.filter(|len| i64::try_from(*len).is_ok());
            let len = len.ok_or(CreateError::Size { sectors })?;
            let (flat, flat_name) = flat_path(path, name);
            let text = DescriptorText {
                cid: first_cid(),
                create_type: "monolithicFlat",
                extent: "FLAT",
                file: &flat_name,
                sectors,
            };
            let text = text.emit();
            let text = text.ok_or_else(|| CreateError::Name(path.to_owned()))?;
            make(&flat, |file| {
                if preallocate {
                    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)?;
                }
                Storage::set_len(file, len)
            })?;
            make(path, |file| file.write_at(0, text.as_bytes())).inspect_err(|_| remove(&flat))
        }
    }?;
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| CreateError::Host {
            path: folder.to_owned(),
            source,
        })
}

/// Makes a sparse image on `storage`, which is empty. `name` is what its descriptor calls it.
///
/// # Errors
///
/// [`CreateError`].
pub fn create_sparse_on(
    storage: &impl Storage,
    name: &str,
    sectors: u64,
    grain: u32,
) -> Result<(), CreateError> {
    let plan = Plan::new(sectors, grain, name)?;
    let made = plan.write(storage).and_then(|()| storage.sync());
    made.map_err(|source| CreateError::Host {
        path: name.into(),
        source,
    })
}

/// `x.vmdk`'s bytes are in `x-flat.vmdk`.
fn flat_path(path: &Path, name: &str) -> (PathBuf, String) {
    let stem = name.strip_suffix(".vmdk").unwrap_or(name);
    let flat = format!("{stem}-flat.vmdk");
    (path.with_file_name(OsString::from(&flat)), flat)
}

/// Makes a file that is not there yet, and brings it to the medium.
fn make(path: &Path, fill: impl FnOnce(&Arc<File>) -> io::Result<()>) -> Result<(), CreateError> {
    let failed = |source| CreateError::Host {
        path: path.to_owned(),
        source,
    };
    let file = FileOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    let file = Arc::new(file);
    fill(&file)
        .and_then(|()| file.sync_all())
        .inspect_err(|_| remove(path))
        .map_err(failed)
}

/// What is left of a failed attempt. That it cannot be removed is no news after the failure.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(?path, %error, "cannot remove what is left of a VMDK");
    }
}

/// A sparse image to be: header, descriptor, the copies of directory and tables, then those themselves.
struct Plan {
    header: Header,
    text: String,
}

/// Where the descriptor is, and how much room it has, as in VMware's and QEMU's images.
const DESCRIPTOR: (u64, u64) = (1, 20);

impl Plan {
    fn new(sectors: u64, grain: u32, name: &str) -> Result<Self, CreateError> {
        let in_sectors = u64::from(grain / 512);
        let fits = grain.is_power_of_two() && (MIN_GRAIN..=MAX_GRAIN).contains(&in_sectors);
        if !fits {
            return Err(CreateError::Grain(grain));
        }
        let size = || CreateError::Size { sectors };
        // Whether the disk can be filled: entries name sectors of the file in 32 bits.
        if sectors == 0 || sectors > ADDRESSABLE {
            return Err(size());
        }
        let text = DescriptorText {
            cid: first_cid(),
            create_type: "monolithicSparse",
            extent: "SPARSE",
            file: name,
            sectors,
        };
        let text = text.emit().filter(|t| t.len() as u64 <= DESCRIPTOR.1 * 512);
        let text = text.ok_or_else(|| CreateError::Name(name.into()))?;
        let mut header = Header {
            version: 1,
            capacity: sectors,
            grain: in_sectors,
            descriptor: DESCRIPTOR.0,
            descriptor_sectors: DESCRIPTOR.1,
            redundant: Some(DESCRIPTOR.0 + DESCRIPTOR.1),
            directory: 0,
            overhead: 0,
            unclean: false,
            zeroed: false,
            compressed: false,
        };
        let one = header.directory_sectors() + header.tables() * TABLE_SECTORS;
        header.directory = DESCRIPTOR.0 + DESCRIPTOR.1 + one;
        header.overhead = (header.directory + one).next_multiple_of(in_sectors);
        let end = header.overhead + sectors.next_multiple_of(in_sectors);
        if end > ADDRESSABLE {
            return Err(size());
        }
        Ok(Self { header, text })
    }

    fn write(&self, storage: &impl Storage) -> io::Result<()> {
        let header = &self.header;
        // The tables are zeroes.
        storage.set_len(header.overhead * 512)?;
        storage.write_at(header.descriptor * 512, self.text.as_bytes())?;
        for directory in header.redundant.into_iter().chain([header.directory]) {
            let first = directory + header.directory_sectors();
            let mut bytes = Vec::new();
            for number in 0..header.tables() {
                let table = u32::try_from(first + number * TABLE_SECTORS);
                bytes.extend(table.map_err(|_| ErrorKind::InvalidInput)?.to_le_bytes());
            }
            storage.write_at(directory * 512, &bytes)?;
        }
        // Without a header it is no image: so this comes last.
        storage.sync()?;
        storage.write_at(0, &header.emit())
    }
}
