//! `cargo xtask`: the project's own chores. `cargo xtask --help` lists them; `xtask/README.md` tells more.

mod bench;
mod cpio;
mod demo;
mod elf;
mod fuzz;
mod guests;
mod hostile;
mod images;
mod interrupt;
mod lab;
mod machine;
mod modules;
mod packages;
mod peers;
mod process;
mod programs;
mod qemu;
mod size;
mod test;
mod workspace;
mod xen;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Runs a command on a Debian host with a hardware-like /dev/kvm, in an emulator.
    Lab(lab::LabArgs),
    /// Boots an unmodified Debian kernel on our crates, works its disk and network, checks the outcome.
    Demo(demo::DemoArgs),
    /// Sets the machine up and runs every check there is: lints, docs, tests, the demo on both hosts with both guests.
    Test(test::TestArgs),
    /// Measures against limits and peers; tables here, rows in target/bench/AREA.json.
    Bench(bench::BenchArgs),
    /// Makes Xen's own xenstored and oxenstored ready to be compared with, and says how to start them.
    Peers,
    /// Builds the project's own guests.
    Guests,
    /// Runs a fuzz target, or all.
    Fuzz(fuzz::FuzzArgs),
    /// Prints each crate's lines, files, unsafe blocks, widest trait and largest error.
    Size,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = interrupt::install().and_then(|()| match cli.chore {
        Chore::Lab(args) => lab::main(&args),
        Chore::Demo(args) => demo::main(&args),
        Chore::Test(args) => test::main(&args),
        Chore::Bench(args) => bench::main(&args),
        Chore::Peers => peers::main(),
        Chore::Guests => guests::build().map(|()| ExitCode::SUCCESS),
        Chore::Fuzz(args) => fuzz::main(&args),
        Chore::Size => size::main(),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
