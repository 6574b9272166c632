//! `cantle-img` makes, converts, checks, merges and compares disk images, in the habits of `qemu-img` and `vhd-util`.

mod chain;
mod changes;
mod check;
mod cli;
mod commit;
mod compare;
mod convert;
mod copy;
mod create;
mod extents;
mod image;
mod info;
mod interrupt;
mod map;
mod output;
mod progress;
mod resize;
mod size;
mod snapshot;
mod workshop;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use cli::{Cli, Command};
use interrupt::Interrupted;
use output::Output;

/// Exit code for whatever fails, wrong usage included.
const FAILED: u8 = 1;
/// The same of `compare`, where 1 means something else.
const COMPARE_FAILED: u8 = 2;
/// Exit code where the reader of the output has gone: what a shell sees of a program that SIGPIPE ended.
const PIPE_CLOSED: u8 = 128 + 13;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // It fails where nobody reads it.
            let _ = error.print();
            let compare = std::env::args().any(|arg| arg == "compare");
            let failed = if compare { COMPARE_FAILED } else { FAILED };
            return ExitCode::from(if error.use_stderr() { failed } else { 0 });
        }
    };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(if cli.quiet {
            LevelFilter::ERROR
        } else {
            LevelFilter::WARN
        })
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
    let failed = match &cli.command {
        Command::Compare(_) => COMPARE_FAILED,
        _ => FAILED,
    };
    ExitCode::from(run(&cli).unwrap_or_else(|error| {
        let pipe_closed = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if pipe_closed {
            return PIPE_CLOSED;
        }
        eprintln!("cantle-img: {error:#}");
        match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => interrupted.exit_code(),
            None => failed,
        }
    }))
}

fn run(cli: &Cli) -> Result<u8> {
    interrupt::fail_at_file_limit()?;
    let out = &mut Output::new();
    let code = match &cli.command {
        Command::Create(args) => create::create(cli, args),
        Command::Info(args) => info::info(cli, out, args),
        Command::Convert(args) => convert::convert(cli, args),
        Command::Check(args) => check::check(out, args),
        Command::Commit(args) => commit::commit(cli, args),
        Command::Snapshot(args) => snapshot::snapshot(cli, out, args),
        Command::Compare(args) => compare::compare(cli, out, args),
        Command::Map(args) => map::map(cli, out, args),
        Command::Resize(args) => resize::resize(cli, args),
        Command::Changes(args) => changes::changes(out, args),
    }?;
    out.flush()?;
    Ok(code)
}

/// Says something that nobody asked for.
fn note(cli: &Cli, what: std::fmt::Arguments<'_>) {
    if !cli.quiet {
        eprintln!("cantle-img: {what}");
    }
}
