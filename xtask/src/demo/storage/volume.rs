//! The images on their way to the host and back: the host gets a disk with a file system that they are in.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::demo::disk::e2fs;
use crate::process;

/// A raw image with an ext4 file system, whose files are images.
#[derive(Debug)]
pub(super) struct Volume {
    image: PathBuf,
}

impl Volume {
    /// Makes it at `image`, of so many bytes, with copies of the files in `folder`; holes stay holes.
    pub(super) fn make(image: PathBuf, size: u64, folder: &Path) -> Result<Self> {
        File::create(&image)
            .and_then(|file| file.set_len(size))
            .with_context(|| format!("cannot make {}", image.display()))?;
        process::output(
            e2fs("mkfs.ext4")?
                .args(["-q", "-F", "-m", "0", "-d"])
                .args([folder, &image]),
        )?;
        Ok(Self { image })
    }

    /// Its path.
    pub(super) fn image(&self) -> &Path {
        &self.image
    }

    /// Whether the file system is whole, as after an orderly end.
    pub(super) fn check(&self) -> Result<()> {
        process::output(e2fs("e2fsck")?.args(["-n", "-f"]).arg(&self.image))
            .map(drop)
            .context("the host's file system is not whole")
    }

    /// Copies a file of its out of it.
    pub(super) fn take(&self, name: &str, to: &Path) -> Result<()> {
        let request = format!("dump /{name} {}", to.display());
        process::output(e2fs("debugfs")?.args(["-R", &request]).arg(&self.image))?;
        let there = fs::metadata(to).is_ok_and(|file| file.len() > 0);
        ensure!(there, "the host has no {name}");
        Ok(())
    }
}
