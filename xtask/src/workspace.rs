//! Where things are: the workspace's root and the folders below its target directory.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or(here.clone(), Path::to_path_buf)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |t| root().join(t))
}

/// A folder below `target/lab`, made when it is missing.
pub(crate) fn lab(below: &str) -> Result<PathBuf> {
    let path = target().join("lab").join(below);
    make(&path)?;
    Ok(path)
}

/// The folder that a lab machine sees as `/share`.
pub(crate) fn share() -> Result<PathBuf> {
    lab("share")
}

/// A file of `xtask/assets`.
pub(crate) fn asset(name: &str) -> PathBuf {
    root().join("xtask/assets").join(name)
}

/// Makes a folder and its parents.
pub(crate) fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}
