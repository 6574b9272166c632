//! Changes, as xenstore-watch prints them.

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use cantle_abi::Errno;
use cantle_xenstore::client::SocketClient;
use cantle_xenstore::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};

use crate::cli::Watch;
use crate::output::Output;

pub(crate) fn watch(client: &SocketClient, out: &mut Output, args: &Watch) -> Result<u8> {
    for path in &args.paths {
        match args.depth {
            None => client.watch(path, path),
            Some(depth) => client.watch_depth(path, path, depth),
        }
        .map_err(|error| match (error.errno, args.depth) {
            (Errno::EINVAL, Some(_)) => {
                anyhow::anyhow!("no such path, or a daemon that knows no depths")
            }
            (errno, _) => errno.into(),
        })
        .with_context(|| format!("unable to add watch on {path}"))?;
    }
    let mut left = args.number.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(event) = client.take_event() else {
            if let Some(lost) = client.lost() {
                bail!("{lost}");
            }
            // Whoever reads sees all that happened so far.
            out.flush()?;
            let mut fds = [PollFd::from_borrowed_fd(client.event_fd(), PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno).context("could not wait for events"),
            }
        };
        writeln!(out, "{}", event.path)?;
        left -= 1;
    }
    Ok(0)
}
