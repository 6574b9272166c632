//! What it is worth to look for a while before sleeping: the same requests with and without.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use cantle_blkback::image::{Caching, RawDisk, RawOptions};

use super::case::{Case, Load};
use super::sides::Ours;
use crate::measure::Unit;
use crate::report::Report;
use crate::rounds::Pace;

pub(super) fn run(report: &mut Report, file: &Path) -> Result<()> {
    for (suffix, caching) in [
        ("", Caching::DirectIfPossible),
        ("_cached", Caching::Buffered),
    ] {
        for depth in [1, 4, 32] {
            for micros in [5, 20, 50] {
                contest(
                    report,
                    &format!("spin_{micros}us_qd{depth}{suffix}"),
                    depth,
                    micros,
                    file,
                    caching,
                )?;
            }
        }
    }
    Ok(())
}

fn contest(
    report: &mut Report,
    name: &str,
    depth: usize,
    micros: u64,
    file: &Path,
    caching: Caching,
) -> Result<()> {
    let row = format!("blkback/{name}");
    if !report.wants(&row) {
        return Ok(());
    }
    let plan = report.plan().longer(2);
    let start = |micros| {
        let options = RawOptions {
            caching,
            ..RawOptions::default()
        };
        let disk = Arc::new(RawDisk::open(file, &options)?);
        let case = Case::usual(Load::randread(depth)).spin(Duration::from_micros(micros));
        Ours::start(&case, disk)
    };
    let (mut ours, mut asleep) = (start(micros)?, start(0)?);
    let (mut our_pace, mut their_pace) = (Pace::new(256), Pace::new(256));
    report.contest_by(
        plan,
        &row,
        Unit::PerSecond,
        &mut || our_pace.rate(plan.slice, |count| ours.drive(count)),
        Some(&mut || their_pace.rate(plan.slice, |count| asleep.drive(count))),
    );
    Ok(())
}
