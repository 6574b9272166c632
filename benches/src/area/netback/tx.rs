//! From a guest's ring to a tap, against writing into such a tap.

use std::time::Instant;

use anyhow::Result;
use cantle_abi::PAGE_SIZE;
use cantle_netport::Tap;

use super::frames::{Kind, Packet};
use super::ours::Ours;
use crate::private_net::{BareTap, set_up};
use crate::report::Report;
use crate::rounds::Pace;

/// As many bytes as the front end's pages for sending.
const FOOTPRINT: usize = 1 << 20;

pub(super) fn run(report: &mut Report) -> Result<()> {
    for kind in Kind::ALL {
        let row = match kind {
            Kind::Gso => "netback/gso_64k_tx".to_owned(),
            _ => format!("netback/{}", kind.name()),
        };
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
    let mut ours = Ours::start(Box::new(tap))?;
    let load = ours.load(packet);
    let (header, copies) = (packet.header(), copies(packet));
    let plan = report.plan().longer(4);
    let (mut our_pace, mut bare_pace) = (Pace::new(64), Pace::new(64));
    report.contest_by(
        plan,
        row,
        packet.kind.unit(),
        &mut || {
            let rate = our_pace.rate(plan.slice, |count| ours.send(&load, count))?;
            Ok(packet.figure(rate))
        },
        Some(&mut || {
            let rate = bare_pace.rate(plan.slice, |count| {
                let begun = Instant::now();
                for frame in copies.iter().cycle().take(usize::try_from(count)?) {
                    bare[0].write(&header, frame)?;
                }
                Ok(begun.elapsed())
            })?;
            Ok(packet.figure(rate))
        }),
    );
    Ok(())
}

/// The frame as often as the front end's pages hold it, each at a page's beginning.
fn copies(packet: &Packet) -> Vec<Vec<u8>> {
    let each = packet.pages() * PAGE_SIZE;
    let copy = || {
        let mut bytes = Vec::with_capacity(each);
        bytes.extend_from_slice(&packet.bytes);
        bytes
    };
    (0..FOOTPRINT / each).map(|_| copy()).collect()
}
