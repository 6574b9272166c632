//! From a tap to a guest's ring, against reading such a tap.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cantle_abi::PAGE_SIZE;
use cantle_netport::Tap;

use super::frames::{Kind, Packet};
use super::ours::Ours;
use crate::private_net::{BareTap, Feeder, set_up};
use crate::report::Report;

/// As many bytes as the front end's pages for reception.
const FOOTPRINT: usize = 1 << 20;

pub(super) fn run(report: &mut Report) -> Result<()> {
    for kind in Kind::ALL {
        let row = format!("netback/{}_rx", kind.name());
        if report.wants(&row) {
            contest(report, &row, &Packet::new(kind)?)?;
        }
    }
    Ok(())
}

fn contest(report: &mut Report, row: &str, packet: &Packet) -> Result<()> {
    let tap = Tap::create("ours0")?;
    set_up("ours0")?;
    let bare = BareTap::create("bare0", 1)?;
    let (our_feeder, bare_feeder) = (Feeder::new("ours0")?, Feeder::new("bare0")?);
    let mut ours = Ours::start(Box::new(tap))?;
    let flows = packet.flows();
    let mut buffer = vec![0; FOOTPRINT];
    let plan = report.plan().longer(4);
    report.contest_by(
        plan,
        row,
        packet.kind.unit(),
        &mut || {
            let rate = sustained(plan.slice, || ours.receive(packet, &flows, &our_feeder))?;
            Ok(packet.figure(rate))
        },
        Some(&mut || {
            let rate = sustained(plan.slice, || {
                bare_feeder.feed(&packet.header(), &flows, packet.burst())?;
                drain(&bare[0], packet, &mut buffer)
            })?;
            Ok(packet.figure(rate))
        }),
    );
    Ok(())
}

/// Reads what was put into a tap, into pieces of memory that take turns.
fn drain(tap: &BareTap, packet: &Packet, buffer: &mut [u8]) -> Result<(u64, Duration)> {
    let mut left = packet.burst();
    let begun = Instant::now();
    while left > 0 {
        for into in buffer
            .chunks_exact_mut(packet.pages() * PAGE_SIZE)
            .take(left)
        {
            let read = tap.read(into)?;
            ensure!(
                read == Some(packet.bytes.len()),
                "{left} frames are missing: {read:?}"
            );
            left -= 1;
        }
    }
    Ok((packet.burst() as u64, begun.elapsed()))
}

/// Packets a second over bursts that last for about `slice` together.
fn sustained(slice: Duration, mut burst: impl FnMut() -> Result<(u64, Duration)>) -> Result<f64> {
    let (mut packets, mut took) = (0, Duration::ZERO);
    while took < slice {
        let (some, time) = burst()?;
        packets += some;
        took += time;
    }
    Ok(packets as f64 / took.as_secs_f64())
}
