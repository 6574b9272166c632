//! A live update of the daemon, step by step as the protocol has it.

use std::path::absolute;

use anyhow::{Context, Result};
use cantle_xenstore::client::SocketClient;
use cantle_xenstore::prelude::*;

use crate::cli::LiveUpdate;
use crate::operate::REFUSED;

pub(crate) fn live_update(client: &SocketClient, args: &LiveUpdate) -> Result<u8> {
    // The daemon has a working directory of its own.
    let file = absolute(&args.file).context("no such program")?;
    let file = file.to_str().context("the program's path is no text")?;
    let timeout = args.timeout.to_string();
    let mut start = vec!["-s", "-t", &timeout];
    if args.force {
        start.push("-F");
    }
    let mut steps = vec![vec!["-f", file]];
    steps.extend(args.command_line.as_deref().map(|line| vec!["-c", line]));
    steps.push(start);
    for step in steps {
        let words: Vec<&str> = ["live-update"].into_iter().chain(step).collect();
        let answer = match client.control(&words) {
            Ok(answer) => answer,
            Err(error) => error.errno.to_string(),
        };
        if answer != "OK" {
            eprintln!("cantle-xs: the daemon was not replaced: {answer}");
            // Else it would stand in the next one's way; where nothing has begun this is refused, too.
            let _ = client.control(&["live-update", "-a"]);
            return Ok(REFUSED);
        }
    }
    Ok(0)
}
