//! `cargo xtask bench`.

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{guests, machine, peers, process, programs, workspace};

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure: event, grant, ring, blkback, netback, vmm, …; everything when none is named.
    #[arg(value_name = "AREA")]
    areas: Vec<String>,
    /// Only rows whose names have this in them, in areas whose rows take long to set up.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Builds the benchmarks and runs them; each area's rows go to `target/bench/AREA.json`.
pub(crate) fn main(args: &BenchArgs) -> Result<ExitCode> {
    // The machine's start-up is measured with a guest of ours.
    guests::build()?;
    programs::build_native(&["cantle", "cantle-xenstored", "cantle-benches"])?;
    if let Err(error) = machine::for_bench() {
        eprintln!("xtask: not all that disks are compared with: {error:#}");
    }
    if let Err(error) = peers::prepare() {
        eprintln!("xtask: no peers to compare xenstore with: {error:#}");
    }
    let out = workspace::target().join("bench");
    workspace::make(&out)?;
    let mut bench = Command::new(workspace::target().join("release/cantle-bench"));
    bench
        .current_dir(workspace::root())
        .args(&args.areas)
        .arg("--out")
        .arg(out);
    if let Some(only) = &args.only {
        bench.args(["--only", only]);
    }
    process::run(&mut bench)?;
    Ok(ExitCode::SUCCESS)
}
