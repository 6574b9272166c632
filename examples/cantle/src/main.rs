//! `cantle` runs an unmodified Xen guest on plain Linux/KVM, in `xl`'s habits.
//!
//! `cantle run` takes a guest from its options, or one or several from files in `xl.cfg`'s syntax, gives the first the terminal as
//! its console, and says at the end how they ended. Everything else is in the library crates; what is here is the
//! command line ([`cli`]), the file ([`config`]), the terminal and the signals.

/// A line for whoever reads the standard error stream; where nobody does any more, it is not worth dying for.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

mod cli;
mod config;
mod output;
mod run;
mod supervisor;
mod switches;
mod terminal;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};

/// Exit code for a guest that could not be set up, and for wrong usage.
const SETUP_FAILED: u8 = 2;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("CANTLE_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .compact()
        .init();
    let done = match Cli::parse().command {
        Command::Run(args) => args
            .guests()
            .and_then(|guests| run::run(guests, args.stats)),
        Command::ProbeKvm => cantle_vmm_core::kvm_runs_stock_kernels()
            .map(|runs| u8::from(!runs))
            .map_err(anyhow::Error::from),
    };
    ExitCode::from(done.unwrap_or_else(|error| {
        say!("cantle: {}", one_line(&error));
        SETUP_FAILED
    }))
}

/// An error with its causes, without those that it tells already.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}
