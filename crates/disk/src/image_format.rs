//! Formats by their names.

use std::fmt;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

/// The formats that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageFormat {
    /// The file's bytes are the disk's, whatever they look like.
    #[default]
    Raw,
    /// Microsoft's and Xen's VHD, which QEMU calls `vpc`.
    Vhd,
    /// QEMU's qcow2.
    Qcow2,
    /// VMware's VMDK.
    Vmdk,
}

impl ImageFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Vhd, Self::Qcow2, Self::Vmdk];

    /// The format's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }

    /// What a file's name says: its ending. For tools and for files that are to be made; raw where it says nothing.
    #[must_use]
    pub fn by_name(path: &Path) -> Self {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending
            .and_then(|ending| ending.to_ascii_lowercase().parse().ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no disk format; raw, vhd (vpc), qcow2 and vmdk are")]
pub struct UnknownFormat(pub String);

impl FromStr for ImageFormat {
    type Err = UnknownFormat;

    fn from_str(word: &str) -> std::result::Result<Self, Self::Err> {
        match word {
            // QEMU's name.
            "vpc" => Ok(Self::Vhd),
            _ => Self::ALL
                .into_iter()
                .find(|format| format.name() == word)
                .ok_or_else(|| UnknownFormat(word.to_owned())),
        }
    }
}

/// What an image looks like, by its first bytes (and the last sector, where a fixed VHD says what it is). **Never** to decide how a guest's
/// disk is used: the guest writes those bytes.
///
/// # Errors
///
/// The host's.
pub fn probe(path: &Path) -> Result<ImageFormat> {
    let file = File::open(path)?;
    let mut head = [0; 64];
    let there = file.read_at(&mut head, 0)?;
    let head = head.get(..there).unwrap_or_default();
    let len = file.metadata()?.len();
    let mut foot = [0; 8];
    if let Some(at) = len.checked_sub(512) {
        file.read_exact_at(&mut foot, at)?;
    }
    Ok(match head {
        [b'Q', b'F', b'I', 0xfb, ..] => ImageFormat::Qcow2,
        [b'K', b'D', b'M', b'V', ..] => ImageFormat::Vmdk,
        _ if head.starts_with(b"# Disk DescriptorFile") => ImageFormat::Vmdk,
        _ if head.starts_with(b"conectix") || &foot == b"conectix" => ImageFormat::Vhd,
        _ => ImageFormat::Raw,
    })
}
