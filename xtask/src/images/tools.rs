//! The xenstore tools of a Debian release, as an archive for its guests.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cpio::Archive;

/// The tools, and every library that they are linked with.
pub(super) const PACKAGES: [&str; 5] = [
    "xenstore-utils",
    "libxenstore4",
    "libxentoolcore1",
    "libc6",
    "libgcc-s1",
];

/// What is loaded with them; the last when a thread is cancelled.
const LIBRARIES: [&str; 4] = [
    "libc.so.6",
    "libxenstore.so.4",
    "libxentoolcore.so.1",
    "libgcc_s.so.1",
];

const LOADER: &str = "ld-linux-x86-64.so.2";

/// Where the loader looks for libraries; Debian 12 has them in the first and third, Debian 13 in the other two.
const FOLDERS: [&str; 3] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib64",
];

/// Packs the tools that were unpacked in `root`. The kernel puts them beside what is in `/usr/bin` of the other archive.
pub(super) fn pack(root: &Path, out: impl Write) -> Result<()> {
    let mut archive = Archive::new(out);
    for folder in ["lib", "lib/x86_64-linux-gnu", "lib64"] {
        archive.folder(folder)?;
    }
    for library in LIBRARIES {
        let name = format!("lib/x86_64-linux-gnu/{library}");
        archive.file(&name, 0o755, &read(&found(root, library)?)?)?;
    }
    archive.file(
        &format!("lib64/{LOADER}"),
        0o755,
        &read(&found(root, LOADER)?)?,
    )?;
    // They are one program, which goes by the name it is called with; a wrapper for Xen's own hosts is left out.
    let folder = root.join("usr/bin");
    archive.file("usr/bin/xenstore", 0o755, &read(&folder.join("xenstore"))?)?;
    let mut tools = 0;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("xenstore-") && entry.file_type()?.is_file() {
            archive.link(&format!("usr/bin/{name}"), "xenstore")?;
            tools += 1;
        }
    }
    ensure!(tools > 0, "{} has no tools in its usr/bin", root.display());
    archive.finish()?;
    Ok(())
}

fn found(root: &Path, library: &str) -> Result<PathBuf> {
    FOLDERS
        .iter()
        .map(|folder| root.join(folder).join(library))
        .find(|path| path.is_file())
        .with_context(|| format!("{} has no {library}", root.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
