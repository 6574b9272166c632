//! The initial RAM disk of a PV guest: its size is known before there is memory, its bytes go there in pieces.

use std::fs::File;
use std::io;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::frames::PvFrames;
use crate::boot::{BootError, Initrd};

/// An initial RAM disk that is open.
#[derive(Debug)]
pub(super) enum OpenInitrd<'a> {
    None,
    Bytes(&'a [u8]),
    File {
        file: File,
        bytes: u64,
        path: &'a Path,
    },
}

impl<'a> OpenInitrd<'a> {
    pub(super) fn open(initrd: Option<Initrd<'a>>) -> Result<Self, BootError> {
        match initrd {
            None => Ok(Self::None),
            Some(Initrd::Bytes(bytes)) => Ok(Self::Bytes(bytes)),
            Some(Initrd::File(path)) => {
                let failed = |source| BootError::Initrd {
                    path: path.to_owned(),
                    source,
                };
                let file = File::open(path).map_err(failed)?;
                let metadata = file.metadata().map_err(failed)?;
                if !metadata.is_file() {
                    return Err(failed(io::Error::other("not a regular file")));
                }
                let bytes = metadata.len();
                Ok(Self::File { file, bytes, path })
            }
        }
    }

    /// Its bytes; a file that grows meanwhile is cut.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    /// Writes it to pseudo-physical memory, where the layout has room for it.
    pub(super) fn write(
        &mut self,
        memory: &GuestMemoryMmap<()>,
        frames: &PvFrames,
        address: u64,
    ) -> Result<(), BootError> {
        let pieces = frames.behind(address, self.len()).unwrap_or_default();
        match self {
            Self::None => Ok(()),
            Self::Bytes(bytes) => super::load::write(memory, frames, "initrd", address, bytes),
            Self::File { file, path, .. } => {
                let failed = |source| BootError::Initrd {
                    path: (*path).to_owned(),
                    source,
                };
                for (at, bytes) in pieces {
                    let bytes = usize::try_from(bytes)
                        .map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
                    // A file that has become shorter meanwhile is an error.
                    memory
                        .read_exact_volatile_from(GuestAddress(at), file, bytes)
                        .map_err(|e| failed(io::Error::other(e)))?;
                }
                Ok(())
            }
        }
    }
}
