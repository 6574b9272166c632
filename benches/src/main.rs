//! `cantle-bench`: how near each part comes to what the machine can do.
//!
//! Every row is measured side by side with its limit (the same work without this project, as bare as it can be written) in one run
//! and in turns, so that a busy machine slows both. `benches/README.md` says what each row and each limit is.

mod area;
mod cpu_clock;
mod disk_op;
mod fio;
mod grant_backend;
mod guest_page;
mod measure;
mod private_net;
mod raw_disk;
mod raw_kvm;
mod report;
mod rounds;
mod vhost_user;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use area::Area;
use report::Report;
use rounds::Plan;

/// Measures the project's parts against their limits.
#[derive(Debug, Parser)]
#[command(name = "cantle-bench")]
struct Args {
    /// What to measure; everything when none is named.
    #[arg(value_name = "AREA")]
    areas: Vec<Area>,
    /// The folder for AREA.json files, and for temporary files.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    /// Fewer and shorter rounds: to see that everything runs, not for figures.
    #[arg(long)]
    quick: bool,
    /// Only rows whose names have this in them, in areas whose rows take long to set up (blkback, netback).
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

fn main() -> Result<()> {
    // Before anything else, since that program's start is measured.
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(raw_kvm::ROLE) {
        let memory = arguments.next().context("no memory size")?;
        return raw_kvm::main(memory.parse()?);
    }
    if std::env::args().nth(1).as_deref() == Some(grant_backend::ROLE) {
        return grant_backend::main();
    }
    if std::env::args().nth(1).as_deref() == Some(area::ECHO_ROLE) {
        let socket = std::env::args().nth(2).context("no socket")?;
        let connections = std::env::args().nth(3).context("no count")?;
        return area::echo_main(socket.as_ref(), connections.parse()?);
    }
    let args = Args::parse();
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))?;
    let plan = if args.quick {
        Plan::quick()
    } else {
        Plan::usual()
    };
    let areas = if args.areas.is_empty() {
        Area::all()
    } else {
        args.areas
    };
    report::heading();
    for area in areas {
        let mut report = Report::new(plan, args.only.clone());
        area.run(&mut report, &args.out)?;
        report.write(&args.out.join(format!("{}.json", area.name())))?;
    }
    Ok(())
}
