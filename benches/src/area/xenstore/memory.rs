//! What a node and a connection cost in memory.

use anyhow::Result;

use super::daemons::Daemon;
use super::load::dial;
use super::sides::Sides;
use super::tree;
use crate::measure::Unit;
use crate::report::Report;

const DOMAINS: usize = 1000;
const CONNECTIONS: u64 = 1000;

/// A daemon's memory as it grows: a figure is asked for once a round, and stays as it is.
struct Side {
    figure: f64,
    _daemon: Daemon,
}

/// Memory that the daemon itself has written to, beyond names and values, for each node of a thousand domains.
fn nodes(daemon: Daemon) -> Result<Side> {
    // What it needs for any request at all is not the nodes'.
    tree::plant(&daemon, 1)?;
    let before = daemon.memory()?;
    tree::plant(&daemon, DOMAINS)?;
    let grown = daemon.memory()?.saturating_sub(before) as f64;
    let payload: usize = (1..DOMAINS).map(tree::payload).sum();
    let nodes = (DOMAINS - 1) * tree::NODES;
    Ok(Side {
        figure: (grown - payload as f64) / nodes as f64,
        _daemon: daemon,
    })
}

/// The same for each connection that says nothing.
fn connections(daemon: Daemon) -> Result<Side> {
    let before = daemon.memory()?;
    let idle = (0..CONNECTIONS)
        .map(|_| dial(daemon.socket()))
        .collect::<Result<Vec<_>>>()?;
    // An answer on the last one: all before it have been accepted.
    if let Some(last) = idle.last() {
        super::load::converse(last, &super::script::directory("/")?, 1)?;
    }
    let grown = daemon.memory()?.saturating_sub(before) as f64;
    Ok(Side {
        figure: grown / CONNECTIONS as f64,
        _daemon: daemon,
    })
}

pub(super) fn run(report: &mut Report) -> Result<()> {
    for (name, ready) in [
        (
            "xenstore/bytes_per_node",
            nodes as fn(Daemon) -> Result<Side>,
        ),
        ("xenstore/bytes_per_connection", connections),
    ] {
        let sides = Sides::new(ready, None)?;
        sides.contest(report, name, Unit::Bytes, &mut |side, _| {
            Ok((side.figure, 0))
        })?;
    }
    Ok(())
}
