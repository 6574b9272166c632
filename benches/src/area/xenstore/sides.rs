//! Our daemon, the limit and the peers, in turns.

use std::time::Duration;

use anyhow::{Context, Result};

use super::daemons::{Daemon, PEERS};
use crate::measure::{Row, Samples, Unit};
use crate::report::Report;

/// Does a round of about so long: its figure, and how often something was refused.
pub(super) type RoundOf<'a, S> = &'a mut dyn FnMut(&mut S, Duration) -> Result<(f64, u64)>;

/// What is measured of each, made ready by the same function.
pub(super) struct Sides<S> {
    ours: S,
    limit: Option<S>,
    peers: [(&'static str, Result<S>, Samples, u64); 2],
}

impl<S> Sides<S> {
    /// Starts the daemons. A peer that cannot be had is absent.
    pub(super) fn new(
        ready: impl Fn(Daemon) -> Result<S>,
        limit: Option<Result<S>>,
    ) -> Result<Self> {
        let peer = |name| {
            let side = Daemon::peer(name).and_then(&ready);
            (name, side, Samples::default(), 0)
        };
        Ok(Self {
            ours: Daemon::ours().and_then(&ready).context("our daemon")?,
            limit: limit.transpose().context("the limit")?,
            peers: PEERS.map(peer),
        })
    }

    /// Measures in turns. A row for us and the limit, and one for each peer.
    pub(super) fn contest(
        mut self,
        report: &mut Report,
        name: &str,
        unit: Unit,
        round_of: RoundOf<'_, S>,
    ) -> Result<()> {
        let plan = report.plan().longer(4);
        let (mut ours, mut limit) = (Samples::default(), Samples::default());
        let mut our_refusals = 0;
        for round in 0..=plan.rounds {
            let (figure, refused) = round_of(&mut self.ours, plan.slice).context("our daemon")?;
            let bare = match &mut self.limit {
                Some(limit) => Some(round_of(limit, plan.slice).context("the limit")?.0),
                None => None,
            };
            // The first round warms everything up, and is forgotten.
            if round > 0 {
                ours.push(figure);
                our_refusals += refused;
                bare.into_iter().for_each(|figure| limit.push(figure));
            }
            for (_, side, samples, refusals) in &mut self.peers {
                let Ok(peer) = side else { continue };
                match round_of(peer, plan.slice) {
                    Ok((figure, refused)) if round > 0 => {
                        samples.push(figure);
                        *refusals += refused;
                    }
                    Ok(_) => {}
                    Err(error) => *side = Err(error),
                }
            }
        }
        let none = Samples::default();
        report.push(noting(
            Row::new(name, unit, &ours, &limit, &none),
            our_refusals,
        ));
        for (peer, side, samples, refusals) in &self.peers {
            let name = format!("{name}_vs_{peer}");
            match side {
                Ok(_) => report.push(noting(
                    Row::new(&name, unit, &ours, &none, samples),
                    *refusals,
                )),
                Err(error) => report.absent(&name, unit, &format!("{error:#}")),
            }
        }
        Ok(())
    }
}

fn noting(row: Row, refused: u64) -> Row {
    if refused == 0 {
        return row;
    }
    row.with_note(format!("{refused} commits were refused"))
}
