//! The workspace's programs, linked statically for the lab.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{machine, process, workspace};

/// What the lab's programs are built for: no shared libraries.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// The packages whose programs every lab machine has.
const PACKAGES: [&str; 2] = ["cantle", "cantle-xs"];

/// cargo, with the workspace as its current folder and its variables as this program was given them.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root());
    // Those describe xtask, not what is to be built.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST") {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Builds the programs; cargo's own progress is shown.
pub(crate) fn build() -> Result<()> {
    machine::for_programs()?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--target", TARGET]);
    for package in PACKAGES {
        build.args(["--package", package]);
    }
    process::run(&mut build).context("cannot build the programs for the lab")
}

/// Where the programs are, built or not.
pub(crate) fn built() -> Vec<PathBuf> {
    let folder = workspace::target().join(TARGET).join("release");
    PACKAGES.iter().map(|name| folder.join(name)).collect()
}

/// Builds some of the workspace's packages for this machine.
pub(crate) fn build_native(packages: &[&str]) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--release"]);
    for package in packages {
        build.args(["--package", package]);
    }
    process::run(&mut build).with_context(|| format!("cannot build {}", packages.join(", ")))
}

/// Where this machine's `cantle` is, built or not.
pub(crate) fn native() -> PathBuf {
    workspace::target().join("release/cantle")
}
