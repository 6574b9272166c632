//! The guest's disk, as the host sees it before and after.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

const MIB: u64 = 1 << 20;

/// Room for the data, the file that the write rate is measured with, and the journal.
const SIZE_MIB: u64 = 256;

/// A raw image with an ext4 file system.
#[derive(Debug)]
pub(super) struct Disk {
    image: PathBuf,
}

impl Disk {
    /// Makes `FOLDER/disk.img`.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        Self::made(folder, SIZE_MIB, &[])
    }

    /// Makes `FOLDER/disk.img` with what is in the folder `content`, and only with what boot loaders know of ext4.
    pub(super) fn with(folder: &Path, content: &Path) -> Result<Self> {
        let features = "none,has_journal,extent,filetype,sparse_super,dir_index".as_ref();
        let options = ["-O".as_ref(), features, "-d".as_ref(), content.as_os_str()];
        Self::made(folder, 2 * SIZE_MIB, &options)
    }

    fn made(folder: &Path, mib: u64, options: &[&OsStr]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let image = folder.join("disk.img");
        File::create(&image)
            .and_then(|file| file.set_len(mib * MIB))
            .with_context(|| format!("cannot make {}", image.display()))?;
        let mut mkfs = e2fs("mkfs.ext4")?;
        mkfs.args(["-q", "-F", "-m", "0"]).args(options).arg(&image);
        process::output(&mut mkfs)?;
        Ok(Self { image })
    }

    /// An image that has been made and written elsewhere.
    pub(super) fn at(image: PathBuf) -> Self {
        Self { image }
    }

    /// The image's path.
    pub(super) fn image(&self) -> &Path {
        &self.image
    }

    /// Whether the file system is whole and holds the file `data`, of this SHA-256, beside its checksum.
    pub(super) fn check(&self, sha256: &str) -> Result<()> {
        process::output(e2fs("e2fsck")?.args(["-n", "-f"]).arg(&self.image))
            .context("its file system is not whole")?;
        let folder = self.image.parent().unwrap_or(Path::new("."));
        for name in ["data", "data.sha256"] {
            let request = format!("dump /{name} {}", folder.join(name).display());
            process::output(e2fs("debugfs")?.args(["-R", &request]).arg(&self.image))?;
        }
        let noted = fs::read_to_string(folder.join("data.sha256")).unwrap_or_default();
        ensure!(
            noted.split_whitespace().next() == Some(sha256),
            "the image's data.sha256 is not what the guest wrote"
        );
        process::output(
            Command::new("sha256sum")
                .args(["--check", "--strict", "--quiet", "data.sha256"])
                .current_dir(folder),
        )
        .context("the data in the image are not those that the guest wrote")?;
        Ok(())
    }
}

/// One of e2fsprogs' programs; they may stand where only root's `PATH` leads.
pub(super) fn e2fs(program: &str) -> Result<Command> {
    if process::exists(program) {
        return Ok(Command::new(program));
    }
    let path = Path::new("/usr/sbin").join(program);
    ensure!(path.exists(), "the demo needs {program}: install e2fsprogs");
    Ok(Command::new(path))
}
