//! The daemon's own commands, and quotas.

use std::io::Write as _;

use anyhow::{Context, Result};
use cantle_abi::Errno;
use cantle_xenstore::Error;
use cantle_xenstore::client::SocketClient;
use cantle_xenstore::prelude::*;

use crate::cli::{Control, Quota};
use crate::output::Output;

/// Exit code where the daemon refused, as of xenstore-control.
pub(crate) const REFUSED: u8 = 3;

pub(crate) fn control(client: &SocketClient, out: &mut Output, args: &Control) -> Result<u8> {
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    match client.control(&words) {
        Ok(answer) if answer.is_empty() => {}
        Ok(answer) => writeln!(out, "{answer}")?,
        Err(error) if error.errno == Errno::EINVAL => {
            eprintln!(
                "cantle-xs: the daemon does not take this command ({}).",
                error.errno
            );
            if let Ok(commands) = client.control(&["help"]) {
                eprintln!("It takes:\n{}", commands.trim_end());
            }
            return Ok(REFUSED);
        }
        Err(error) => {
            eprintln!("cantle-xs: {}: {}", args.words.join(" "), error.errno);
            return Ok(REFUSED);
        }
    }
    Ok(0)
}

pub(crate) fn quota(client: &SocketClient, out: &mut Output, args: &Quota) -> Result<u8> {
    match (&args.name, args.value) {
        (Some(name), Some(value)) => {
            let set = client.set_quota(args.domain, name, value);
            explain(set).with_context(|| format!("could not set quota {name}"))?;
        }
        (Some(name), None) => {
            let value = explain(client.quota(args.domain, name));
            let value = value.with_context(|| format!("could not read quota {name}"))?;
            writeln!(out, "{value}")?;
        }
        (None, _) => {
            let names = explain(client.quota_names()).context("could not list the quotas")?;
            for name in names {
                let value = explain(client.quota(args.domain, &name));
                let value = value.with_context(|| format!("could not read quota {name}"))?;
                writeln!(out, "{name:20} {value}")?;
            }
        }
    }
    Ok(0)
}

fn explain<T>(result: Result<T, Error>) -> Result<T> {
    result.map_err(|error| match error.errno {
        Errno::ENOSYS => {
            anyhow::anyhow!(
                "the daemon is older than these requests: try `cantle-xs control quota`"
            )
        }
        errno => errno.into(),
    })
}
