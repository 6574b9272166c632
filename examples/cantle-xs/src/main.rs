//! `cantle-xs` looks at a xenstore and changes it, in the habits of Xen's `xenstore-*` programs, and shows who asks it for what.
//!
//! It speaks to any xenstore daemon, `cantle-xenstored` or Xen's own. What a command prints and the code it exits with are as
//! with the program of xenstore-utils that has its name.

mod cli;
mod domains;
mod escape;
mod ls;
mod nodes;
mod operate;
mod output;
mod top;
mod update;
mod watch;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use cantle_xenstore::client::{ConnectError, SocketClient, default_path};
use clap::Parser;

use cli::{Cli, Command};
use output::Output;

/// Exit code for whatever fails, wrong usage included, as xenstore-utils have it.
const FAILED: u8 = 1;
/// Exit code where the reader of the output has gone: what a shell sees of a program that SIGPIPE ended.
const PIPE_CLOSED: u8 = 128 + 13;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // It fails where nobody reads it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    ExitCode::from(run(&cli).unwrap_or_else(|error| {
        let pipe_closed = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if pipe_closed {
            return PIPE_CLOSED;
        }
        eprintln!("cantle-xs: {error:#}");
        if let Some(hint) = error.downcast_ref().and_then(hint) {
            eprintln!("cantle-xs: {hint}");
        }
        FAILED
    }))
}

fn run(cli: &Cli) -> Result<u8> {
    let path = cli.socket.clone().unwrap_or_else(default_path);
    let client = &SocketClient::connect(&path)?;
    let out = &mut Output::new();
    let code = match &cli.command {
        Command::Read(args) => nodes::read(client, out, args),
        Command::Write(args) => nodes::write(client, args),
        Command::Ls(args) => ls::ls(client, out, args),
        Command::List(args) => nodes::list(client, out, args),
        Command::Watch(args) => watch::watch(client, out, args),
        Command::Rm(args) => nodes::rm(client, args),
        Command::Chmod(args) => nodes::chmod(client, args),
        Command::Exists(args) => nodes::exists(client, args),
        Command::Mkdir(args) => nodes::mkdir(client, args),
        Command::Domains => domains::domains(client, out),
        Command::Control(args) => operate::control(client, out, args),
        Command::LiveUpdate(args) => update::live_update(client, args),
        Command::Quota(args) => operate::quota(client, out, args),
        Command::Top(args) => top::top(client, out, args),
    }?;
    out.flush()?;
    Ok(code)
}

/// What to do where there is no daemon.
fn hint(error: &ConnectError) -> Option<&'static str> {
    match error.source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Some(
            "start a daemon (cantle-xenstored, xenstored), or name its socket by --socket or XENSTORED_PATH",
        ),
        io::ErrorKind::PermissionDenied => {
            Some("the socket is for its owner only: become root, or the daemon's user")
        }
        _ => None,
    }
}
