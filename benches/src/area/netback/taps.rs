//! Between a guest's rings and a tap, against such a tap without them.

use std::sync::Arc;

use anyhow::Result;
use cantle_netport::{NetDevice, TapDevice};

use super::bare::{Reader, Writer};
use super::case::Case;
use super::frames::{Kind, Packet};
use super::ours::{Ours, Receiver, Sender};
use super::peer::Peer;
use super::side::{Contest, Side, Sides};
use crate::private_net::{Feeder, set_up};
use crate::report::Report;

pub(super) fn run(report: &mut Report) -> Result<()> {
    let two = Case {
        queues: 2,
        ..Case::USUAL
    };
    let statics = Case {
        statics: true,
        ..Case::USUAL
    };
    for case in [Case::USUAL, two, statics] {
        for kind in Kind::ALL {
            let packet = Packet::new(kind)?;
            for receives in [false, true] {
                let contest = Contest::new(&packet, receives, case);
                contest.run(report, || sides(&packet, receives, case));
            }
        }
    }
    Ok(())
}

fn sides(packet: &Packet, receives: bool, case: Case) -> Result<Sides<'_>> {
    let ours = Ours::start(tap()?, case)?;
    let (ours, limit): (Box<dyn Side>, Box<dyn Side>) = if receives {
        let feeder = Feeder::new("ours0")?;
        (
            Box::new(Receiver::new(ours, packet, feeder)),
            Box::new(Reader::new("bare0", case.queues, packet)?),
        )
    } else {
        (
            Box::new(Sender::new(ours, packet)),
            Box::new(Writer::new("bare0", case.queues, packet)?),
        )
    };
    // Not for every variation of ours: it has one way.
    let peer = case.is_usual().then(|| {
        let peer = Peer::start(packet, receives)?;
        Ok(Box::new(peer) as Box<dyn Side>)
    });
    Ok(Sides { ours, limit, peer })
}

fn tap() -> Result<Arc<dyn NetDevice>> {
    let tap = TapDevice::create("ours0")?;
    set_up("ours0")?;
    Ok(Arc::new(tap))
}
