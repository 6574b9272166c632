//! `cantle-xenstored` takes xenstored's place: the same protocol at the same socket, behind it the `cantle-xenstore` crate.
//!
//! What is here is what a process has that a library has not: options ([`cli`]), a log that can be exchanged ([`log`]), signals, a service
//! manager, the one loop in which all of it is served ([`daemon`]), and how the process becomes another program without its clients'
//! notice ([`update`]). See `--help`.

mod cli;
mod control;
mod daemon;
mod exec;
mod guests;
mod inherited;
mod log;
mod notify;
mod set_up;
mod signals;
mod store;
mod update;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use daemon::Daemon;

/// The service cannot go on.
const FAILED: u8 = 1;
/// It could not be set up, or the usage is wrong; clap says the latter by the same number.
const SETUP_FAILED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let fail = |error: &anyhow::Error, code| {
        if cli.log_file.is_some() {
            tracing::error!("{error:#}");
        }
        eprintln!("cantle-xenstored: {error:#}");
        ExitCode::from(code)
    };
    if cli.check_state {
        return match update::check_state(std::io::stdin()) {
            Ok(whole) => {
                println!("{whole}");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error, SETUP_FAILED),
        };
    }
    match Daemon::set_up(&cli) {
        Err(error) => fail(&error, SETUP_FAILED),
        Ok(mut daemon) => match daemon.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, FAILED),
        },
    }
}
