//! Who takes part, and how they are compared.

use std::time::Duration;

use anyhow::Result;

use super::case::Case;
use super::frames::{Kind, Packet};
use crate::cpu_clock::thread_time;
use crate::measure::{Row, Samples, Unit};
use crate::report::Report;

/// What some packets took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Took {
    pub(super) packets: u64,
    pub(super) time: Duration,
    /// Of whoever moves packets (not of a front end, nor of what feeds a tap), where that can be told.
    pub(super) cpu: Option<Duration>,
}

/// Ours, the limit or a peer.
pub(super) trait Side {
    /// Moves packets for a moment.
    fn some(&mut self) -> Result<Took>;
}

/// Work of this thread alone.
pub(super) fn alone(packets: u64, work: impl FnOnce() -> Result<Duration>) -> Result<Took> {
    let before = thread_time()?;
    let time = work()?;
    Ok(Took {
        packets,
        time,
        cpu: Some(thread_time()? - before),
    })
}

/// One side's figures.
#[derive(Debug, Default)]
struct Figures {
    rate: Samples,
    cpu: Samples,
}

impl Figures {
    /// Measures for about `slice`.
    fn round(
        &mut self,
        side: &mut dyn Side,
        slice: Duration,
        packet: &Packet,
        keep: bool,
    ) -> Result<()> {
        let (mut packets, mut time, mut cpu) = (0, Duration::ZERO, Some(Duration::ZERO));
        while time < slice {
            let took = side.some()?;
            packets += took.packets;
            time += took.time;
            cpu = cpu.zip(took.cpu).map(|(sum, more)| sum + more);
        }
        // The first round warms everything up, and is forgotten.
        if keep {
            self.rate
                .push(packet.figure(packets as f64 / time.as_secs_f64()));
            if let Some(cpu) = cpu {
                self.cpu.push(cpu.as_secs_f64() * 1e9 / packets as f64);
            }
        }
        Ok(())
    }
}

/// Those that take part.
pub(super) struct Sides<'a> {
    pub(super) ours: Box<dyn Side + 'a>,
    pub(super) limit: Box<dyn Side + 'a>,
    pub(super) peer: Option<Result<Box<dyn Side + 'a>>>,
}

/// A comparison's names and packet.
pub(super) struct Contest<'a> {
    pub(super) packet: &'a Packet,
    /// The row of the rate.
    pub(super) rate: String,
    /// The row of CPU time, where that is asked for.
    pub(super) cpu: Option<String>,
}

impl<'a> Contest<'a> {
    /// The rows of a packet that is sent or received.
    pub(super) fn new(packet: &'a Packet, receives: bool, case: Case) -> Self {
        let suffix = case.suffix();
        let (direction, large) = match (receives, packet.kind) {
            (true, _) => ("_rx", "_rx"),
            (false, Kind::Gso) => ("_tx", ""),
            (false, _) => ("", ""),
        };
        let kind = match packet.kind {
            Kind::Small => "",
            Kind::Full => "_1500",
            Kind::Gso => "_gso",
        };
        Self {
            packet,
            rate: format!("netback/{}{direction}{suffix}", packet.kind.name()),
            // Of several queues, one thread's time alone is known.
            cpu: (case.queues == 1).then(|| format!("netback/cpu_per_packet{kind}{large}{suffix}")),
        }
    }

    fn wanted(&self, report: &Report) -> bool {
        report.wants(&self.rate) || self.cpu.as_ref().is_some_and(|row| report.wants(row))
    }

    /// Lets the sides that `start` makes take turns. A side that is not there, or fails, is a row that says so.
    pub(super) fn run<'s>(&self, report: &mut Report, start: impl FnOnce() -> Result<Sides<'s>>) {
        if !self.wanted(report) {
            return;
        }
        if let Err(error) = start().and_then(|sides| self.measure(report, sides)) {
            report.absent(&self.rate, self.packet.kind.unit(), &format!("{error:#}"));
        }
    }

    fn measure(&self, report: &mut Report, sides: Sides<'_>) -> Result<()> {
        let plan = report.plan().longer(4);
        let (mut our_figures, mut limit_figures, mut peer_figures) =
            <(Figures, Figures, Figures)>::default();
        let Sides {
            mut ours,
            mut limit,
            mut peer,
        } = sides;
        for round in 0..=plan.rounds {
            let keep = round > 0;
            our_figures.round(ours.as_mut(), plan.slice, self.packet, keep)?;
            limit_figures.round(limit.as_mut(), plan.slice, self.packet, keep)?;
            if let Some(Ok(side)) = &mut peer
                && let Err(error) = peer_figures.round(side.as_mut(), plan.slice, self.packet, keep)
            {
                peer = Some(Err(error));
            }
        }
        let failed = match &peer {
            Some(Err(error)) => Some(format!("{error:#}")),
            _ => None,
        };
        let rows = [
            (
                Some(&self.rate),
                self.packet.kind.unit(),
                [&our_figures.rate, &limit_figures.rate, &peer_figures.rate],
            ),
            (
                self.cpu.as_ref(),
                Unit::Nanoseconds,
                [&our_figures.cpu, &limit_figures.cpu, &peer_figures.cpu],
            ),
        ];
        let none = Samples::default();
        for (row, unit, [ours, limit, theirs]) in rows {
            let Some(row) = row else { continue };
            report.push(Row::new(row, unit, ours, limit, &none));
            let versus = format!("{row}_vs_vhost_user");
            match (&peer, &failed) {
                (None, _) => {}
                (_, Some(why)) => report.absent(&versus, unit, why),
                (_, None) => report.push(Row::new(&versus, unit, ours, &none, theirs)),
            }
        }
        Ok(())
    }
}
