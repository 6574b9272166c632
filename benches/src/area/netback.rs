//! The network back end: packets from a guest's ring to a tap, against writing them into such a tap without it.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use cantle_abi::io::netif::XEN_NETIF_GSO_TYPE_TCPV4;
use cantle_netport::headers::IpVersion;
use cantle_netback::test_utils::{FrontOptions, Load, NetFront, Outgoing, Shape, World};
use cantle_netport::{Checksum, Gso, GsoKind, Offload, Tap, vnet};
use cantle_xenstore::xenbus::XenbusState;

use crate::measure::Unit;
use crate::private_net::{self, BareTap};
use crate::report::Report;
use crate::rounds::Pace;

/// TCP payload of a full-sized packet.
const SEGMENT: u16 = 1448;
const MIB: f64 = 1_048_576.0;

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
    let taps = private_net::enter().and_then(|()| {
        let ours = Tap::create("ours0")?;
        private_net::set_up("ours0")?;
        Ok((ours, BareTap::create("bare0")?))
    });
    match taps {
        Ok((ours, bare)) => packets(report, ours, &bare),
        Err(error) => {
            let why = format!("{error:#}");
            report.absent("netback/gso_64k", Unit::MebibytesPerSecond, &why);
            report.absent("netback/pps_1500", Unit::PerSecond, &why);
            Ok(())
        }
    }
}

fn packets(report: &mut Report, tap: Tap, bare: &BareTap) -> Result<()> {
    let world = World::new();
    let backend = world.backend(Box::new(tap))?;
    let _running = World::serve(backend);
    let mut front = world.front(&FrontOptions::default());
    ensure!(
        front.wait_state(XenbusState::CONNECTED, Duration::from_secs(5)),
        "the back end does not connect"
    );

    // 45 segments: 65,214 bytes, the most that a request can say is 65,535.
    let shape = Shape::tcp(IpVersion::V4, vec![7; 45 * usize::from(SEGMENT)]);
    let large = Packet {
        frame: shape.build(true),
        offload: Offload {
            checksum: Checksum::Blank {
                start: u16::try_from(shape.start())?,
                offset: u16::try_from(shape.checksum_offset())?,
            },
            gso: Some(Gso {
                kind: GsoKind::TcpV4,
                size: SEGMENT,
                header_len: u16::try_from(shape.start() + 20)?,
                ecn: false,
            }),
        },
    };
    large.contest(
        report,
        &mut front,
        bare,
        "netback/gso_64k",
        Unit::MebibytesPerSecond,
    );

    // 1500 bytes of IP.
    let small = Packet {
        frame: Shape::tcp(IpVersion::V4, vec![7; 1460]).build(false),
        offload: Offload::default(),
    };
    small.contest(
        report,
        &mut front,
        bare,
        "netback/pps_1500",
        Unit::PerSecond,
    );
    Ok(())
}

struct Packet {
    frame: Vec<u8>,
    offload: Offload,
}

impl Packet {
    fn contest(
        &self,
        report: &mut Report,
        front: &mut NetFront,
        bare: &BareTap,
        row: &str,
        unit: Unit,
    ) {
        let plan = report.plan().longer(4);
        let header = vnet::emit(&self.offload);
        let load = Load::new(front, &self.outgoing());
        // Of one packet, in the unit.
        let amount = match unit {
            Unit::MebibytesPerSecond => self.frame.len() as f64 / MIB,
            _ => 1.0,
        };
        let (mut our_pace, mut bare_pace) = (Pace::new(64), Pace::new(64));
        report.contest_by(
            plan,
            row,
            unit,
            &mut || {
                let rate = our_pace.rate(plan.slice, |count| {
                    let begun = Instant::now();
                    let refused = load.send(front, count);
                    ensure!(refused == 0, "{refused} packets are refused");
                    Ok(begun.elapsed())
                })?;
                Ok(rate * amount)
            },
            Some(&mut || {
                let rate = bare_pace.rate(plan.slice, |count| {
                    let begun = Instant::now();
                    for _ in 0..count {
                        bare.write(&header, &self.frame)?;
                    }
                    Ok(begun.elapsed())
                })?;
                Ok(rate * amount)
            }),
        );
    }

    fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            bytes: &self.frame,
            csum_blank: matches!(self.offload.checksum, Checksum::Blank { .. }),
            gso: self
                .offload
                .gso
                .map(|gso| (XEN_NETIF_GSO_TYPE_TCPV4, gso.size)),
            ..Outgoing::default()
        }
    }
}
