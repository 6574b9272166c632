//! Requests to a disk that does nothing: what the ring path alone can do. There is no limit to hold it against.

use std::sync::Arc;

use anyhow::Result;
use cantle_blkback::image::NullDisk;

use super::case::{Case, Load};
use super::sides::Ours;
use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::Pace;

pub(super) fn run(report: &mut Report) -> Result<()> {
    let case = Case::usual(Load::randread(32));
    for (name, case) in [
        ("null_1q", case),
        ("null_1q_mapped", case.plain()),
        ("null_2q", case.queues(2)),
    ] {
        let row = format!("blkback/{name}");
        if !report.wants(&row) {
            continue;
        }
        let plan = report.plan().longer(2);
        let mut ours = Ours::start(&case, Arc::new(NullDisk { sectors: 1 << 20 }))?;
        let mut pace = Pace::new(256);
        report.contest_by(
            plan,
            &row,
            Unit::PerSecond,
            &mut || pace.rate(plan.slice, |count| ours.drive(count)),
            None,
        );
    }
    Ok(())
}
