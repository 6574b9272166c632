//! The network back end: packets between a guest's ring and a tap, against the same packets without it.

mod bare;
mod case;
mod frames;
mod idle;
mod ours;
mod peer;
mod serving;
mod side;
mod sweep;
mod switch;
mod taps;

use anyhow::{Result, anyhow};
use cantle_netport::Tap;

use crate::measure::Unit;
use crate::private_net;
use crate::report::Report;

pub(super) fn run(report: &mut Report) -> Result<()> {
    // A thread of its own, since a namespace cannot be left again.
    std::thread::scope(|scope| {
        scope
            .spawn(|| in_namespace(report))
            .join()
            .map_err(|_| anyhow!("the benchmark panicked"))?
    })
}

fn in_namespace(report: &mut Report) -> Result<()> {
    switch::run(report)?;
    idle::run(report);
    if let Err(error) = private_net::enter().and_then(|()| Ok(Tap::create("probe0")?)) {
        let why = format!("{error:#}");
        report.absent("netback/gso_64k_tx", Unit::MebibytesPerSecond, &why);
        report.absent("netback/pps_1500", Unit::PerSecond, &why);
        return Ok(());
    }
    taps::run(report)?;
    sweep::run(report)
}
