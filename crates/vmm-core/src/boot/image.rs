//! The kernel file: an ELF vmlinux, a bzImage around a packed one, or a packed one on its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::elf::{Elf, ElfError};
use super::rewrite::{HypercallSites, RewriteError};
use super::unpack;

pub use super::unpack::{MAX_UNPACKED, Packing};

/// Where a bzImage has its setup header.
const SETUP_HEADER_OFFSET: usize = 0x1f1;
/// "HdrS".
const SETUP_HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// The first version of the setup header that says where the payload is.
const SETUP_HEADER_VERSION: u16 = 0x0208;
/// What `setup_sects` is counted in, in bytes.
const SECTOR: u64 = 512;

/// The longest command line, in bytes, for a kernel that does not say how much it takes.
pub const DEFAULT_CMDLINE_LIMIT: usize = 4095;

/// Why a file is no kernel that can be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file cannot be read.
    #[error("kernel {}: {source}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is neither ELF nor a bzImage nor packed in a known way.
    #[error(
        "the kernel is neither ELF nor bzImage nor packed in a known way: it begins with {0:02x?}"
    )]
    Unknown(Vec<u8>),
    /// A bzImage whose header is wrong.
    #[error("the kernel is a bad bzImage: its {field} is {value:#x}")]
    Setup {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The payload does not unpack.
    #[error("the kernel does not unpack: {packing}: {reason}")]
    Unpack {
        /// How it is packed.
        packing: Packing,
        /// What the decoder says.
        reason: String,
    },
    /// What was unpacked cannot be loaded.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The kernel has no PVH entry point.
    #[error(
        "the kernel is not a PVH kernel: it has no Xen note PHYS32_ENTRY (Linux needs CONFIG_PVH)"
    )]
    NotPvh,
}

/// A kernel, unpacked and with its headers checked.
///
/// ```no_run
/// use cantle_vmm_core::boot::KernelImage;
///
/// let kernel = KernelImage::read("/boot/vmlinuz-6.1.0-56-cloud-amd64".as_ref())?;
/// println!("{} starts at {:#x}", kernel.packing(), kernel.pvh_entry()?);
/// # Ok::<_, cantle_vmm_core::boot::ImageError>(())
/// ```
#[derive(Debug)]
pub struct KernelImage {
    bytes: Vec<u8>,
    elf: Elf,
    packing: Packing,
    cmdline_limit: usize,
}

impl KernelImage {
    /// Reads the kernel at `path`: once, so that a file which changes meanwhile cannot pass a check and then differ.
    ///
    /// # Errors
    ///
    /// [`ImageError`]; a file of more than [`MAX_UNPACKED`] bytes is refused unread.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let mut bytes = Vec::new();
        let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        if size > MAX_UNPACKED {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        // Room for one more byte spares the read that finds the end from growing the buffer.
        bytes
            .try_reserve_exact(size.saturating_add(1))
            .map_err(|e| failed(e.into()))?;
        file.take(MAX_UNPACKED as u64)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Self::parse(bytes)
    }

    /// Takes a kernel from memory.
    ///
    /// # Errors
    ///
    /// [`ImageError`]. The work and the memory are bounded by [`MAX_UNPACKED`].
    pub fn parse(file: Vec<u8>) -> Result<Self, ImageError> {
        if let Some(setup) = setup_header_of(&file) {
            return Self::parse_bzimage(&file, &setup);
        }
        match Packing::detect(&file) {
            Some(Packing::None) => Self::from_elf(file, Packing::None, DEFAULT_CMDLINE_LIMIT),
            Some(packing) => {
                let bytes = unpack::unpack(packing, &file, None)?;
                Self::from_elf(bytes, packing, DEFAULT_CMDLINE_LIMIT)
            }
            None => Err(unknown(&file)),
        }
    }

    fn parse_bzimage(file: &[u8], setup: &setup_header) -> Result<Self, ImageError> {
        let bad = |field, value| ImageError::Setup { field, value };
        let version = setup.version;
        if version < SETUP_HEADER_VERSION {
            return Err(bad("version", version.into()));
        }
        // 0 means 4, as it did before the field was there.
        let setup_sectors = if setup.setup_sects == 0 {
            4
        } else {
            u64::from(setup.setup_sects)
        };
        let offset = (setup_sectors + 1) * SECTOR + u64::from(setup.payload_offset);
        let payload = usize::try_from(offset)
            .ok()
            .and_then(|offset| file.get(offset..))
            .ok_or_else(|| bad("payload_offset", setup.payload_offset.into()))?;
        let payload = usize::try_from(setup.payload_length)
            .ok()
            .and_then(|length| payload.get(..length))
            .ok_or_else(|| bad("payload_length", setup.payload_length.into()))?;
        let packing = Packing::detect(payload).ok_or_else(|| unknown(payload))?;
        let cmdline_limit = usize::try_from(setup.cmdline_size).unwrap_or(DEFAULT_CMDLINE_LIMIT);
        let bytes = match (packing, payload.split_last_chunk::<4>()) {
            (Packing::None, _) => payload.to_vec(),
            (_, None) => return Err(bad("payload_length", setup.payload_length.into())),
            // gzip's own trailer ends with the size; to the others, Linux's build appends it.
            (Packing::Gzip, Some((_, size))) => {
                unpack::unpack(packing, payload, Some(u32::from_le_bytes(*size)))?
            }
            (_, Some((packed, size))) => {
                unpack::unpack(packing, packed, Some(u32::from_le_bytes(*size)))?
            }
        };
        Self::from_elf(bytes, packing, cmdline_limit.min(DEFAULT_CMDLINE_LIMIT))
    }

    fn from_elf(
        bytes: Vec<u8>,
        packing: Packing,
        cmdline_limit: usize,
    ) -> Result<Self, ImageError> {
        Ok(Self {
            elf: Elf::parse(&bytes)?,
            bytes,
            packing,
            cmdline_limit,
        })
    }

    /// How the file was packed.
    #[must_use]
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The checked headers.
    #[must_use]
    pub fn elf(&self) -> &Elf {
        &self.elf
    }

    /// The bytes of the file that the headers speak of.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The longest command line that the kernel takes, in bytes without the 0 at its end.
    #[must_use]
    pub fn cmdline_limit(&self) -> usize {
        self.cmdline_limit
    }

    /// Where the kernel is started: a 32-bit guest-physical address.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotPvh`] if the kernel names no such place.
    pub fn pvh_entry(&self) -> Result<u32, ImageError> {
        self.elf.pvh_entry().ok_or(ImageError::NotPvh)
    }

    /// Where the kernel makes its hypercalls by instruction; see [`HypercallSites::find`].
    ///
    /// # Errors
    ///
    /// [`RewriteError`] unless there is exactly one such pair of places.
    pub fn hypercall_sites(&self) -> Result<HypercallSites, RewriteError> {
        HypercallSites::find(&self.bytes, self.elf.segments())
    }

    /// Rewrites these places to `out %eax, $port; nop`; see [`HypercallSites::rewrite`].
    ///
    /// # Errors
    ///
    /// [`RewriteError`] unless there is exactly one pair of places; the image is unchanged then.
    pub fn rewrite_hypercalls(&mut self, port: u8) -> Result<HypercallSites, RewriteError> {
        let sites = self.hypercall_sites()?;
        sites.rewrite(&mut self.bytes, port)?;
        Ok(sites)
    }
}

/// The setup header, if the file has one.
fn setup_header_of(file: &[u8]) -> Option<setup_header> {
    let bytes = file
        .get(SETUP_HEADER_OFFSET..)?
        .get(..size_of::<setup_header>())?;
    let mut setup = setup_header::default();
    setup.as_mut_slice().copy_from_slice(bytes);
    let magic = setup.header;
    (magic == SETUP_HEADER_MAGIC).then_some(setup)
}

fn unknown(bytes: &[u8]) -> ImageError {
    ImageError::Unknown(bytes.iter().take(8).copied().collect())
}

#[cfg(test)]
mod tests;
