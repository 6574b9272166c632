//! From guest to guest by the switch, against `memcpy` of the same bytes.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use cantle_abi::PAGE_SIZE;
use cantle_netback::test_utils::{Load, Outgoing};
use cantle_switch::{PortOptions, Switch, SwitchOptions};

use super::case::Case;
use super::frames::{Kind, Packet};
use super::ours::{Ours, PATIENCE, since};
use super::side::{Contest, Side, Sides, Took, alone};
use crate::report::Report;

/// As many bytes as each front end's pages for a direction.
const FOOTPRINT: usize = 1 << 20;

pub(super) fn run(report: &mut Report) -> Result<()> {
    for (kind, row, cpu) in [
        (Kind::Gso, "switch_gso", "switch_cpu_gso"),
        (Kind::Small, "switch_pps_64", "switch_cpu_64"),
    ] {
        let packet = Packet::new(kind)?;
        let contest = Contest {
            packet: &packet,
            rate: format!("netback/{row}"),
            cpu: Some(format!("netback/{cpu}")),
        };
        contest.run(report, || {
            Ok(Sides {
                ours: Box::new(Crossing::start(&packet)?),
                limit: Box::new(Copier::new(&packet)),
                peer: None,
            })
        });
    }
    Ok(())
}

/// Two guests on a switch.
struct Crossing {
    from: Ours,
    to: Ours,
    load: Load,
    /// As many are on their way at once as the receiver has pages for: none is lost.
    window: u64,
    burst: u64,
}

impl Crossing {
    fn start(packet: &Packet) -> Result<Self> {
        let switch = Switch::new(SwitchOptions::default());
        let (from, to) = (
            switch.add_port(PortOptions::named("from"))?,
            switch.add_port(PortOptions::named("to"))?,
        );
        let (from, mut to) = (
            Ours::start(Arc::new(from), Case::USUAL)?,
            Ours::start(Arc::new(to), Case::USUAL)?,
        );
        introduce(&mut to, packet)?;
        let slots = packet.pages() + usize::from(packet.offload.gso.is_some());
        Ok(Self {
            load: Load::new(&from.front, &packet.outgoing()),
            from,
            to,
            window: 256 / slots as u64,
            burst: packet.burst() as u64,
        })
    }

    /// What both back ends' threads have used.
    fn cpu_time(&mut self) -> Result<Option<Duration>> {
        let both = self.from.cpu_time()?.zip(self.to.cpu_time()?);
        Ok(both.map(|(from, to)| from + to))
    }
}

/// Lets the receiver send a packet, so that the switch knows its address.
fn introduce(to: &mut Ours, packet: &Packet) -> Result<()> {
    let (destination, rest) = packet.bytes.split_at(6);
    let bytes = [&rest[..6], destination, &rest[6..]].concat();
    let sent = to.front.send(&Outgoing {
        bytes: &bytes[..64],
        ..Outgoing::default()
    });
    ensure!(sent, "there is no room in an empty ring");
    to.front.kick();
    while to.front.responses().is_empty() {
        ensure!(to.front.wait_tx(PATIENCE), "no answer");
    }
    Ok(())
}

impl Side for Crossing {
    fn some(&mut self) -> Result<Took> {
        let before = self.cpu_time()?;
        let (from, to) = (&mut self.from.front, &mut self.to.front);
        let mut stream = self.load.stream();
        let mut received = 0;
        let begun = Instant::now();
        while received < self.burst {
            let moved = stream.step(from, self.burst.min(received + self.window));
            let (packets, _) = to.drain();
            received += packets;
            if moved || packets > 0 {
                continue;
            }
            let comes = if stream.sent() > received {
                to.wait_rx(PATIENCE)
            } else {
                from.wait_tx(PATIENCE)
            };
            if !comes {
                bail!("{} packets are lost on the way", stream.sent() - received);
            }
        }
        let time = begun.elapsed();
        while stream.answered() < self.burst {
            if !stream.step(from, self.burst) {
                ensure!(from.wait_tx(PATIENCE), "no answer");
            }
        }
        ensure!(
            stream.errors() == 0,
            "{} packets are refused",
            stream.errors()
        );
        Ok(Took {
            packets: received,
            time,
            cpu: since(before, self.cpu_time()?),
        })
    }
}

/// Copies the same bytes, in one thread, between as many bytes of memory.
struct Copier {
    from: Vec<u8>,
    to: Vec<u8>,
    /// Of each packet, and how far they are apart.
    len: usize,
    apart: usize,
    burst: usize,
}

impl Copier {
    fn new(packet: &Packet) -> Self {
        Self {
            from: vec![7; FOOTPRINT],
            to: vec![0; FOOTPRINT],
            len: packet.bytes.len(),
            apart: packet.pages() * PAGE_SIZE,
            burst: packet.burst(),
        }
    }
}

impl Side for Copier {
    fn some(&mut self) -> Result<Took> {
        alone(self.burst as u64, || {
            let mut left = self.burst;
            let begun = Instant::now();
            while left > 0 {
                let pairs = self
                    .from
                    .chunks_exact(self.apart)
                    .zip(self.to.chunks_exact_mut(self.apart));
                for (from, to) in pairs.take(left) {
                    to[..self.len].copy_from_slice(black_box(&from[..self.len]));
                    black_box(to);
                    left -= 1;
                }
            }
            Ok(begun.elapsed().max(Duration::from_nanos(1)))
        })
    }
}
