//! Which image a cache is of.

use std::io::Result;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cantle_image::Format;

/// The path of an image, and the size, time and inode of every file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    bytes: Vec<u8>,
    name: String,
}

impl Identity {
    pub(super) fn of(path: &Path, golden: &dyn Format) -> Result<Self> {
        let path = path.canonicalize()?;
        let mut bytes = path.as_os_str().as_bytes().to_vec();
        let name = format!("{:016x}.cache", fnv(&bytes));
        bytes.push(0);
        // The path's own, which may have been replaced, and those that were opened: the two are to be the same next time, too.
        let mut files = vec![path.metadata()?];
        for file in golden.files() {
            files.push(file.metadata()?);
        }
        for file in files {
            bytes.extend(file.len().to_le_bytes());
            bytes.extend(file.mtime().to_le_bytes());
            bytes.extend(file.mtime_nsec().to_le_bytes());
            bytes.extend(file.ino().to_le_bytes());
        }
        Ok(Self { bytes, name })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same for all images that were ever at that path, so that a changed one takes the old one's place.
    pub(super) fn file_name(&self) -> &str {
        &self.name
    }
}

/// FNV-1a, 64 bits: a name that stays the same. What it names is compared in full.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
