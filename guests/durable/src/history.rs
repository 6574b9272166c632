//! What earlier runs said was durable.

use std::fs;

use crate::plan;

/// The last batch that a run said was durable, in a lane of a disk: the line `DISK LANE RUN BATCH`, where the run's batches count from 1 and 0 is
/// none.
struct Said {
    disk: String,
    lane: u64,
    run: u64,
    last: u64,
}

/// All of it.
pub(crate) struct History(Vec<Said>);

impl History {
    pub(crate) fn read(path: &str) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        let lines = text
            .lines()
            .map(|line| said(line).ok_or_else(|| format!("{path}: {line:?} is no history")));
        Ok(Self(lines.collect::<Result<_, _>>()?))
    }

    /// The durable batches of a lane, oldest first.
    pub(crate) fn durable(&self, disk: &str, lane: u64) -> impl Iterator<Item = u64> {
        let of_lane = self
            .0
            .iter()
            .filter(move |said| said.disk == disk && said.lane == lane);
        of_lane.flat_map(|said| (1..=said.last).map(|n| plan::batch(said.run, n)))
    }

    /// Whether a batch may have been begun without being known as durable.
    pub(crate) fn may_be(&self, disk: &str, lane: u64, batch: u64) -> bool {
        let (run, n) = plan::parts(batch);
        self.0.iter().any(|said| {
            (said.disk.as_str(), said.lane, said.run) == (disk, lane, run) && n > said.last
        })
    }
}

fn said(line: &str) -> Option<Said> {
    let mut words = line.split_whitespace();
    let disk = words.next()?.to_owned();
    let mut number = || words.next()?.parse().ok();
    Some(Said {
        disk,
        lane: number()?,
        run: number()?,
        last: number()?,
    })
}
