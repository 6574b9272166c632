//! The project's own guests, which are a workspace of their own.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{process, programs, workspace};

/// What they are built for: no operating system, no SSE.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// `cargo xtask guests`: builds them into `target/guests/x86_64-unknown-none/release`.
pub(crate) fn build() -> Result<()> {
    process::run(&mut cargo("build")?).context("cannot build the guests")
}

/// cargo with this subcommand, for the guests' workspace.
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    let folder = workspace::root().join("guests");
    ensure!(
        folder.join("Cargo.toml").exists(),
        "there is no guests/Cargo.toml"
    );
    let mut cargo = programs::cargo();
    // From inside the folder, so that its own .cargo/config.toml counts.
    cargo
        .current_dir(folder)
        .args([subcommand, "--release", "--target", TARGET, "--target-dir"])
        .arg(workspace::target().join("guests"));
    Ok(cargo)
}
