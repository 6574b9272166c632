//! Verifying: everything that was said to be durable is there, and nothing that nobody wrote.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::FileExt;

use crate::content::{self, SECTOR, Sector};
use crate::disk::{self, Buffer, Way};
use crate::history::History;
use crate::plan::{self, Lane};
use crate::{Disk, broken};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
/// How many wrong sectors are described.
const SHOWN: usize = 8;

/// What was found on a disk.
#[derive(Default)]
pub(crate) struct Found {
    /// Sectors as the last durable batch left them.
    durable: u64,
    /// Those of a batch that was begun later.
    newer: u64,
    /// Never written.
    blank: u64,
    wrong: Vec<Wrong>,
}

/// A sector that is not as it must be.
struct Wrong {
    sector: u64,
    found: Sector,
    /// The last durable batch that wrote it, if one did.
    due: Option<u64>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sector {}: ", self.sector)?;
        match self.found {
            Sector::Blank => f.write_str("zeros")?,
            Sector::Broken => f.write_str("what no batch wrote")?,
            Sector::Of(batch) => batch_name(f, batch)?,
        }
        match self.due {
            None => f.write_str(" where nothing was durable"),
            Some(batch) => {
                f.write_str(" instead of ")?;
                batch_name(f, batch)
            }
        }
    }
}

fn batch_name(f: &mut fmt::Formatter<'_>, batch: u64) -> fmt::Result {
    let (run, n) = plan::parts(batch);
    write!(f, "batch {n} of run {run}")
}

/// Reads a whole disk; the line that says what was found, or what is wrong.
pub(crate) fn run(disk: &Disk, history: &History) -> Result<(), String> {
    let file = disk::open(&disk.path, false, Way::Direct).map_err(broken(disk))?;
    let size = disk::size(&file).map_err(broken(disk))?;
    let mut found = Found::default();
    let mut buffer = Buffer::new(PIECE);
    for lane in plan::lanes(size) {
        let due = due(disk, lane, history);
        let mut at = lane.start;
        while at < lane.start + lane.len {
            let left = lane.start + lane.len - at;
            let len = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let piece = buffer.first(len).map_err(broken(disk))?;
            file.read_exact_at(piece, at).map_err(broken(disk))?;
            for (bytes, number) in piece.chunks_exact(SECTOR).zip(at / SECTOR as u64..) {
                let sector = content::read(bytes, disk.tag, number);
                found.count(disk, lane, history, number, sector, due.get(&number));
            }
            at += len as u64;
        }
    }
    found.judge(disk)
}

/// The last durable batch by sector.
fn due(disk: &Disk, lane: Lane, history: &History) -> BTreeMap<u64, u64> {
    let mut due = BTreeMap::new();
    for batch in history.durable(&disk.name, lane.number) {
        for extent in lane.writes(batch) {
            let (first, behind) = extent.sectors();
            due.extend((first..behind).map(|sector| (sector, batch)));
        }
    }
    due
}

impl Found {
    fn count(
        &mut self,
        disk: &Disk,
        lane: Lane,
        history: &History,
        number: u64,
        found: Sector,
        due: Option<&u64>,
    ) {
        match (found, due) {
            (Sector::Blank, None) => self.blank += 1,
            (Sector::Of(batch), Some(due)) if batch == *due => self.durable += 1,
            (Sector::Of(batch), due)
                if due.is_none_or(|due| batch > *due)
                    && history.may_be(&disk.name, lane.number, batch)
                    && lane.writes_sector(batch, number) =>
            {
                self.newer += 1;
            }
            _ => self.wrong.push(Wrong {
                sector: number,
                found,
                due: due.copied(),
            }),
        }
    }

    fn judge(self, disk: &Disk) -> Result<(), String> {
        println!(
            "verified {} durable={} newer={} blank={} wrong={}",
            disk.name,
            self.durable,
            self.newer,
            self.blank,
            self.wrong.len()
        );
        for wrong in self.wrong.iter().take(SHOWN) {
            println!("{}: {wrong}", disk.name);
        }
        match self.wrong.len() {
            0 => Ok(()),
            wrong => Err(format!("{}: {wrong} sectors are wrong", disk.name)),
        }
    }
}
