//! What the guests' writers said to be durable, run by run.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, ensure};

/// Parts of a disk that are written at the same time, as in `guests/durable`.
pub(super) const LANES: u64 = 4;

/// A lane of a disk.
pub(super) type Lane = (String, u64);

/// The last durable batch of each lane.
pub(super) type Durable = BTreeMap<Lane, u64>;

/// What all runs said, as `durable verify` wants it.
#[derive(Debug, Default)]
pub(super) struct History {
    text: String,
    runs: u32,
}

impl History {
    /// The number of the next run.
    pub(super) fn next(&self) -> u32 {
        self.runs + 1
    }

    /// Takes what the next run said; how many batches that is. Where a disk has none, nothing was tried.
    pub(super) fn add(&mut self, disks: &[String], durable: &Durable) -> Result<u64> {
        self.runs += 1;
        let mut all = 0;
        for disk in disks {
            let mut of_disk = 0;
            for lane in 0..LANES {
                let last = durable.get(&(disk.clone(), lane)).copied().unwrap_or(0);
                of_disk += last;
                let _ = writeln!(self.text, "{disk} {lane} {} {last}", self.runs);
            }
            ensure!(
                of_disk > 0,
                "run {} ended before anything was durable on {disk}",
                self.runs
            );
            all += of_disk;
        }
        Ok(all)
    }

    /// Its lines.
    pub(super) fn text(&self) -> &str {
        self.text.trim_end()
    }
}

/// The lane and the batch of a writer's line: `durable DISK LANE BATCH`.
pub(super) fn durable(line: &str) -> Option<(Lane, u64)> {
    let mut words = line.strip_prefix("durable ")?.split(' ');
    let disk = words.next()?.to_owned();
    let lane = words.next()?.parse().ok().filter(|lane| *lane < LANES)?;
    let batch = words.next()?.parse().ok()?;
    words.next().is_none().then_some(((disk, lane), batch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up_to_a_history() {
        let mut durable = Durable::new();
        for line in ["durable xvda 0 7", "durable xvda 3 9", "durable xvda 3 1x"] {
            durable.extend(super::durable(line));
        }
        let disks = ["xvda".to_owned()];
        let mut history = History::default();
        assert_eq!(history.next(), 1);
        assert_eq!(history.add(&disks, &durable).unwrap(), 16);
        assert_eq!(
            history.text(),
            "xvda 0 1 7\nxvda 1 1 0\nxvda 2 1 0\nxvda 3 1 9"
        );
        assert_eq!(history.next(), 2);
        assert!(history.add(&disks, &Durable::new()).is_err());
    }

    #[test]
    fn only_whole_lines_count() {
        let lane = |number| ("xvdb".to_owned(), number);
        assert_eq!(durable("durable xvdb 1 20"), Some((lane(1), 20)));
        for torn in [
            "durable xvdb 1",
            "durable xvdb 1 2host: end 4",
            "durable xvdb 1 2 3",
            "durable xvdb 4 2",
            "guest: durable xvdb 1 2",
            "durable",
        ] {
            assert_eq!(durable(torn), None, "{torn}");
        }
    }
}
