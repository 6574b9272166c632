//! xenstore: the daemon on its Unix socket beside Xen's own, on the same generator; a guest's read through its ring; and what
//! transactions, memory and clones cost.

mod cases;
mod daemons;
mod fanout;
mod load;
mod memory;
mod ring;
mod scale;
mod script;
mod sides;
mod tree;
mod update;

use anyhow::Result;

use crate::measure::Unit;
use crate::report::Report;
pub(crate) use daemons::{ECHO_ROLE, echo_main};

pub(super) fn run(report: &mut Report) -> Result<()> {
    ring::run(report)?;
    scale::run(report)?;
    daemons::become_generator();
    let outcome = cases::run(report)
        .and_then(|()| absent_if(report, "xenstore/watch_fanout_1000", fanout::run))
        .and_then(|()| absent_if(report, "xenstore/bytes_per_node", memory::run))
        .and_then(|()| absent_if(report, "xenstore/live_update_120k", update::run));
    daemons::cease_generating();
    outcome
}

/// A row that cannot be measured is said to be so.
fn absent_if(report: &mut Report, row: &str, measure: fn(&mut Report) -> Result<()>) -> Result<()> {
    if let Err(error) = measure(report) {
        report.absent(row, Unit::PerSecond, &format!("{error:#}"));
    }
    Ok(())
}
