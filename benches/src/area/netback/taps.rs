//! Between a guest's ring and a tap, against such a tap without it.

use anyhow::Result;
use cantle_netport::Tap;

use super::bare::{Reader, Writer};
use super::frames::{Kind, Packet};
use super::ours::{Ours, Receiver, Sender};
use super::side::{Contest, Sides};
use crate::private_net::{Feeder, set_up};
use crate::report::Report;

pub(super) fn run(report: &mut Report) -> Result<()> {
    for kind in Kind::ALL {
        let packet = Packet::new(kind)?;
        Contest::new(&packet, false, "").run(report, || {
            Ok(Sides {
                ours: Box::new(Sender::new(Ours::start(tap()?)?, &packet)),
                limit: Box::new(Writer::new("bare0", 1, &packet)?),
                peer: None,
            })
        });
    }
    for kind in Kind::ALL {
        let packet = Packet::new(kind)?;
        Contest::new(&packet, true, "").run(report, || {
            let ours = Ours::start(tap()?)?;
            Ok(Sides {
                ours: Box::new(Receiver::new(ours, &packet, Feeder::new("ours0")?)),
                limit: Box::new(Reader::new("bare0", 1, &packet)?),
                peer: None,
            })
        });
    }
    Ok(())
}

fn tap() -> Result<Box<dyn cantle_netport::NetPort>> {
    let tap = Tap::create("ours0")?;
    set_up("ours0")?;
    Ok(Box::new(tap))
}
