//! `cargo xtask`: the project's own chores. `cargo xtask --help` lists them; `xtask/README.md` tells more.

mod cpio;
mod demo;
mod elf;
mod images;
mod interrupt;
mod lab;
mod modules;
mod packages;
mod process;
mod programs;
mod qemu;
mod workspace;

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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = interrupt::install().and_then(|()| match cli.chore {
        Chore::Lab(args) => lab::main(&args),
        Chore::Demo(args) => demo::main(&args),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
