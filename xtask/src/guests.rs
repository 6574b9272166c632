//! The project's own guests and the programs for Linux guests, which are a workspace of their own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{process, programs, workspace};

/// What guests are built for: no operating system, no SSE.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// The packages and what each is built for.
const PACKAGES: [(&str, &str); 7] = [
    ("probe", TARGET),
    ("channels", programs::TARGET),
    ("durable", programs::TARGET),
    ("pace", programs::TARGET),
    ("stress", programs::TARGET),
    ("traffic", programs::TARGET),
    ("transactions", programs::TARGET),
];

/// `cargo xtask guests`: builds them into `target/guests/TARGET/release`.
pub(crate) fn build() -> Result<()> {
    for mut build in cargo("build")? {
        process::run(&mut build).context("cannot build the guests")?;
    }
    Ok(())
}

/// Where a program for Linux guests is, built or not.
pub(crate) fn program(name: &str) -> PathBuf {
    let folder = workspace::target().join("guests").join(programs::TARGET);
    folder.join("release").join(name)
}

/// cargo with this subcommand, for each package of the guests' workspace.
pub(crate) fn cargo(subcommand: &str) -> Result<Vec<Command>> {
    PACKAGES
        .iter()
        .map(|(package, target)| cargo_for(subcommand, package, target))
        .collect()
}

fn cargo_for(subcommand: &str, package: &str, target: &str) -> Result<Command> {
    let folder = workspace::root().join("guests");
    ensure!(
        folder.join("Cargo.toml").exists(),
        "there is no guests/Cargo.toml"
    );
    let mut cargo = programs::cargo();
    // From inside the folder, so that its own .cargo/config.toml counts.
    cargo
        .current_dir(folder)
        .args([subcommand, "--quiet", "--release", "--package", package])
        .args(["--target", target, "--target-dir"])
        .arg(workspace::target().join("guests"));
    Ok(cargo)
}
