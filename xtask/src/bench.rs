//! `cargo xtask bench`.

mod pv;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::{guests, machine, peers, process, programs, workspace};

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure: event, grant, ring, blkback, netback, vmm, pv, …; everything when none is named.
    #[arg(value_name = "AREA")]
    areas: Vec<String>,
    /// Only rows whose names have this in them, in areas whose rows take long to set up.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Builds the benchmarks and runs them; each area's rows go to `target/bench/AREA.json`.
pub(crate) fn main(args: &BenchArgs) -> Result<ExitCode> {
    let out = workspace::target().join("bench");
    workspace::make(&out)?;
    // The guests of that area need a lab; the others' program knows of none.
    let (lab, here): (Vec<&String>, Vec<&String>) =
        args.areas.iter().partition(|area| *area == pv::AREA);
    if args.areas.is_empty() || !here.is_empty() {
        on_this_machine(&here, args.only.as_deref(), &out)?;
    }
    if args.areas.is_empty() || !lab.is_empty() {
        pv::run(&out, args.only.as_deref())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn on_this_machine(areas: &[&String], only: Option<&str>, out: &Path) -> Result<()> {
    // The machine's start-up is measured with a guest of ours.
    guests::build()?;
    programs::build_native(&["cantle", "cantle-xenstored", "cantle-benches"])?;
    if let Err(error) = machine::for_bench() {
        eprintln!("xtask: not all that disks are compared with: {error:#}");
    }
    if let Err(error) = peers::prepare() {
        eprintln!("xtask: no peers to compare xenstore with: {error:#}");
    }
    let mut bench = Command::new(workspace::target().join("release/cantle-bench"));
    bench
        .current_dir(workspace::root())
        .args(areas)
        .arg("--out")
        .arg(out);
    if let Some(only) = only {
        bench.args(["--only", only]);
    }
    process::run(&mut bench)
}
