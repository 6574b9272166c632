//! GRUB as a PV guest: it loads the kernel and the initial file system from the guest's own disk, and the guest goes on as in every demo.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::disk::Disk;
use super::place::Place;
use crate::images::{self, Guest, Image};
use crate::workspace;

/// The guest's disk, with all that GRUB looks for, in a folder.
pub(super) fn disk(folder: &Path, guest: Guest, words: &str) -> Result<Disk> {
    ensure!(
        guest == Guest::Debian12Generic,
        "GRUB unpacks neither LZ4 nor Zstandard, with which the other kernels are packed: --guest debian12-generic"
    );
    // Before the lab is up: it sees what is there when it begins.
    images::grub()?;
    let image = images::guest(guest)?;
    let boot = folder.join("content/boot");
    workspace::make(&boot.join("grub"))?;
    for (name, from) in [("vmlinuz", &image.kernel), ("initrd", &image.initrd)] {
        fs::copy(from, boot.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    fs::write(boot.join("grub/grub.cfg"), config(words))?;
    Disk::with(folder, &folder.join("content"))
}

fn config(words: &str) -> String {
    format!(
        "set timeout=0\nset default=0\nmenuentry demo {{\n  echo loading\n  linux /boot/vmlinuz {words}\n  initrd /boot/initrd\n}}\n"
    )
}

/// GRUB itself in a kernel's place.
pub(super) fn image(place: &Place) -> Result<Image> {
    let file = images::grub()?;
    let kernel = match place {
        Place::Lab(_) => Path::new("/guests/grub").join(file.file_name().unwrap_or_default()),
        Place::Native => file,
    };
    Ok(Image {
        kernel,
        initrd: PathBuf::new(),
    })
}
