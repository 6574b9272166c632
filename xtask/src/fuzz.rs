//! `cargo xtask fuzz`: the fuzz targets, which are a workspace of their own and need a nightly compiler.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{process, programs, workspace};

/// Options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// The target; all of them, one after another, when none is named.
    target: Option<String>,
    /// How long each is run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs the targets under cargo-fuzz.
pub(crate) fn main(args: &FuzzArgs) -> Result<ExitCode> {
    let known = targets()?;
    let wanted = match &args.target {
        None => known,
        Some(target) if known.contains(target) => vec![target.clone()],
        Some(target) => bail!("no fuzz target {target}; there are: {}", known.join(", ")),
    };
    run(&wanted, args.seconds)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs all targets.
pub(crate) fn all(seconds: u64) -> Result<()> {
    run(&targets()?, seconds)
}

fn run(targets: &[String], seconds: u64) -> Result<()> {
    if process::output(nightly().args(["fuzz", "--version"])).is_err() {
        bail!(
            "fuzzing needs a nightly compiler and cargo-fuzz: rustup toolchain install nightly; cargo install cargo-fuzz"
        );
    }
    for target in targets {
        eprintln!("fuzz: {target}, {seconds} s");
        let folder = workspace::root().join("fuzz");
        // The first corpus is the one that grows; the seeds are only read.
        let corpus = Path::new("corpus").join(target);
        let seeds = Path::new("corpus-seeds").join(target);
        workspace::make(&folder.join(&corpus))?;
        let mut run = nightly();
        run.current_dir(&folder)
            .args(["fuzz", "run", "--fuzz-dir", ".", target])
            .arg(corpus);
        if folder.join(&seeds).is_dir() {
            run.arg(seeds);
        }
        run.arg("--").arg(format!("-max_total_time={seconds}"));
        process::run(&mut run)?;
    }
    Ok(())
}

/// The targets' names: the files of `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join("fuzz/fuzz_targets");
    let list = fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in list {
        let file = entry?.file_name().to_string_lossy().into_owned();
        names.extend(file.strip_suffix(".rs").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// cargo of the nightly toolchain.
fn nightly() -> Command {
    let own = programs::cargo();
    let mut cargo = Command::new("rustup");
    for (name, value) in own.get_envs() {
        if value.is_none() {
            cargo.env_remove(name);
        }
    }
    // Set by the toolchain that runs this program; they would lead cargo-fuzz to it.
    for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC"] {
        cargo.env_remove(name);
    }
    cargo.args(["run", "nightly", "cargo"]);
    cargo
}
