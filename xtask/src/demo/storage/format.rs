//! The formats of images, as QEMU's tools make, check and read them.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::process;

const QEMU_IMG: &str = "qemu-img";

/// Exit codes of `qemu-img check`: some clusters belong to nothing; the format has no check.
const LEAKS: i32 = 3;
const NO_CHECK: i32 = 63;

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// Dynamic, Xen's and Microsoft's.
    Vhd,
    /// QEMU's.
    Qcow2,
    /// VMware's, sparse, in one file.
    Vmdk,
}

/// What a cut in the middle of writes may leave in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tidiness {
    /// Nothing: it was closed in order.
    Whole,
    /// Room that is taken and belongs to nothing.
    MayLeak,
}

impl Format {
    /// All there are.
    pub(crate) const ALL: [Self; 4] = [Self::Raw, Self::Vhd, Self::Qcow2, Self::Vmdk];

    /// As `cantle` calls it, and as files do that end so.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }

    /// As QEMU calls it.
    pub(super) fn qemus_name(self) -> &'static str {
        match self {
            Self::Vhd => "vpc",
            other => other.name(),
        }
    }

    /// Makes an image of an empty disk that has at least so many bytes.
    pub(super) fn make(self, image: &Path, size: u64) -> Result<()> {
        if self == Self::Raw {
            return File::create(image)
                .and_then(|file| file.set_len(size))
                .with_context(|| format!("cannot make {}", image.display()));
        }
        let mut create = Command::new(QEMU_IMG);
        create
            .args(["create", "-q", "-f", self.qemus_name()])
            .arg(image)
            .arg(size.to_string());
        process::output(&mut create).map(drop)
    }

    /// Makes an image of a disk that has these bytes.
    pub(super) fn fill(self, image: &Path, raw: &Path) -> Result<()> {
        let mut convert = Command::new(QEMU_IMG);
        convert
            .args(["convert", "-f", "raw", "-O", self.qemus_name()])
            .args([raw, image]);
        process::output(&mut convert).map(drop)
    }

    /// Whether an image's tables are as they should be, where QEMU can tell.
    pub(super) fn check(self, image: &Path, tidiness: Tidiness) -> Result<()> {
        if self == Self::Raw {
            return Ok(());
        }
        let done = Command::new(QEMU_IMG)
            .args(["check", "-f", self.qemus_name()])
            .arg(image)
            .stdin(Stdio::null())
            .output()
            .context("cannot start qemu-img")?;
        match (done.status.code(), tidiness) {
            (Some(0 | NO_CHECK), _) | (Some(LEAKS), Tidiness::MayLeak) => Ok(()),
            _ => bail!(
                "qemu-img check of {}: {}\n{}{}",
                image.display(),
                done.status,
                String::from_utf8_lossy(&done.stdout),
                String::from_utf8_lossy(&done.stderr)
            ),
        }
    }

    /// Writes what QEMU reads from an image as a raw one.
    pub(super) fn flatten(self, image: &Path, raw: &Path) -> Result<()> {
        if self == Self::Raw {
            return fs::rename(image, raw)
                .with_context(|| format!("cannot rename {}", image.display()));
        }
        let mut convert = Command::new(QEMU_IMG);
        convert
            .args(["convert", "-f", self.qemus_name(), "-O", "raw"])
            .args([image, raw]);
        process::output(&mut convert)?;
        ensure!(raw.exists(), "qemu-img made no {}", raw.display());
        Ok(())
    }
}
