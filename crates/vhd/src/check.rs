//! Checking and repairing an image's metadata.

use std::io::{Error, ErrorKind, Result};
use std::sync::PoisonError;

use crate::footer::{FOOTER, FOOTER_LEN};
use crate::state::{Misplaced, State};
use crate::table::UNUSED;
use crate::{Kind, Vhd};

/// So many problems are listed; the others are counted.
const LISTED: usize = 100;
/// So many blocks that share bytes with others get a copy at most: an image can name one place for each of its blocks.
const MAX_COPIES: u32 = 1024;
/// A hole of up to so many bytes between blocks is there to align them.
const GAP: u64 = 4096;

/// Something that is wrong with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// There is no good footer at the end.
    NoFooter,
    /// There is no good copy of the footer at the start.
    NoFooterCopy,
    /// A block is said to be behind the file's end.
    BeyondEnd {
        /// Which.
        block: u32,
    },
    /// The file ends within a block.
    Truncated {
        /// Which.
        block: u32,
    },
    /// A block is said to be where headers and tables are.
    OverMetadata {
        /// Which.
        block: u32,
    },
    /// Two blocks share bytes of the file.
    Overlap {
        /// The one that begins first.
        block: u32,
        /// The other one.
        with: u32,
    },
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many problems there are.
    pub errors: u64,
    /// The first hundred of them.
    pub problems: Vec<Problem>,
    /// Bytes of the file that nothing is in. A crash leaves some: they are lost room, not lost data.
    pub leaked: u64,
    /// How many blocks there are in the file.
    pub allocated_blocks: u64,
}

impl Report {
    /// Whether nothing is wrong. Leaks are not.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors == 0
    }

    fn add(&mut self, problem: Problem) {
        self.errors += 1;
        if self.problems.len() < LISTED {
            self.problems.push(problem);
        }
    }
}

impl Vhd {
    /// Looks for what is wrong with the footers and the table, as it is in memory. It takes time and memory by the table's size, and
    /// keeps others from the table meanwhile.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn check(&self) -> Result<Report> {
        let state = self.state();
        let mut report = Report::default();
        if !self.is_footer(state.end, &state) {
            report.add(Problem::NoFooter);
        }
        if self.layout.kind == Kind::Fixed {
            return Ok(report);
        }
        if !self.is_footer(0, &state) {
            report.add(Problem::NoFooterCopy);
        }
        let mut places = Vec::new();
        for (block, sector) in (0_u32..).zip(state.table.blocks()) {
            if *sector != UNUSED {
                let at = u64::from(*sector) * 512;
                report.allocated_blocks += 1;
                match state.misplaced(at) {
                    Some(Misplaced::BeyondEnd) => {
                        report.add(Problem::BeyondEnd { block });
                        continue;
                    }
                    Some(Misplaced::OverMetadata) => {
                        report.add(Problem::OverMetadata { block });
                        continue;
                    }
                    Some(Misplaced::Truncated) => report.add(Problem::Truncated { block }),
                    None => {}
                }
                places.push((at, block));
            }
        }
        places.sort_unstable();
        for pair in places.windows(2) {
            if let [(one, block), (other, with)] = *pair
                && one + state.span > other
            {
                report.add(Problem::Overlap { block, with });
            }
        }
        report.leaked = leaked(&state, &places);
        Ok(report)
    }

    fn is_footer(&self, at: u64, state: &State) -> bool {
        let mut raw = [0; FOOTER];
        let read = self.storage.read_at(at, &mut raw);
        read.is_ok() && raw == *state.footer.raw()
    }

    /// Repairs what [`check`](Self::check) finds: footers are written again; a block behind the end or over metadata is forgotten, and
    /// what it had is the parent's or zeroes; where the file ends within a block, the rest becomes zeroes; of two blocks that share
    /// bytes, the second gets a copy, which may be of the other one's. What a crash left at the file's end is cut off. The report is of before.
    ///
    /// # Errors
    ///
    /// The host's; [`ErrorKind::InvalidData`] where more than 1024 blocks share bytes. The image is then as good as before or better.
    pub fn repair(&mut self) -> Result<Report> {
        self.writable()?;
        let report = self.check()?;
        self.flush_all()?;
        let lock = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.layout.kind != Kind::Fixed {
            self.repair_table(&mut self.state())?;
        }
        drop(lock);
        self.flush_all()?;
        let mut state = self.state();
        if self.layout.kind != Kind::Fixed {
            self.storage.write_at(0, state.footer.raw())?;
            self.storage.sync()?;
            self.cut_off(&mut state)?;
        }
        self.storage.write_at(state.end, state.footer.raw())?;
        self.storage.sync()?;
        drop(state);
        Ok(report)
    }

    fn repair_table(&self, state: &mut State) -> Result<()> {
        state.bitmaps.forget();
        let mut places = Vec::new();
        let all: Vec<u32> = state.table.blocks().to_vec();
        let mut end = state.end;
        for (block, sector) in (0_u32..).zip(all).filter(|(_, sector)| *sector != UNUSED) {
            let at = u64::from(sector) * 512;
            match state.misplaced(at) {
                Some(Misplaced::BeyondEnd | Misplaced::OverMetadata) => {
                    state.table.set(block, UNUSED)
                }
                Some(Misplaced::Truncated) => {
                    end = end.max(at + state.span);
                    places.push((at, block));
                }
                None => places.push((at, block)),
            }
        }
        if end > state.end {
            if self.layout.device {
                return Err(ErrorKind::StorageFull.into());
            }
            // The footer is in the middle of a block now, and it is none of the block's bytes.
            self.storage.write_at(end, state.footer.raw())?;
            self.storage.write_at(state.end, &[0; FOOTER])?;
            self.storage.sync()?;
            state.end = end;
        }
        state.find_room(self.layout.device);
        places.sort_unstable();
        let (mut free, mut copies) = (0, 0);
        for (at, block) in places {
            if at >= free {
                free = at + state.span;
            } else if copies == MAX_COPIES {
                return Err(Error::new(
                    ErrorKind::InvalidData,
                    "too many blocks share bytes",
                ));
            } else {
                copies += 1;
                self.copy_block(state, block, at)?;
            }
        }
        Ok(())
    }

    fn copy_block(&self, state: &mut State, block: u32, from: u64) -> Result<()> {
        let (at, sector) = self.reserve(state)?;
        let mut piece = vec![0; 1 << 16];
        let mut done = 0;
        while done < state.span {
            let here = (state.span - done).min(piece.len() as u64);
            let part = usize::try_from(here)
                .ok()
                .and_then(|here| piece.get_mut(..here));
            let part = part.unwrap_or_default();
            let copied = self.storage.read_at(from + done, part);
            if let Err(error) = copied.and_then(|()| self.storage.write_at(at + done, part)) {
                self.give_back(state, at);
                return Err(error);
            }
            done += here;
        }
        self.keep(state, at);
        state.table.set(block, sector);
        Ok(())
    }

    /// Lets the file end where its last block does.
    fn cut_off(&self, state: &mut State) -> Result<()> {
        if self.layout.device {
            return Ok(());
        }
        let used = state
            .table
            .blocks()
            .iter()
            .filter(|&&sector| sector != UNUSED);
        let blocks = used
            .map(|&sector| u64::from(sector) * 512 + state.span)
            .max();
        let headers = state.metadata.iter().map(|range| range.end).max();
        let end = blocks.max(headers).unwrap_or(state.end);
        if end < state.end {
            self.storage.set_len(end + FOOTER_LEN)?;
            state.end = end;
        }
        state.find_room(false);
        Ok(())
    }
}

/// Bytes between the tables, the blocks (by their places) and the end.
fn leaked(state: &State, places: &[(u64, u32)]) -> u64 {
    let mut used: Vec<_> = state
        .metadata
        .iter()
        .map(|range| (range.start, range.end))
        .collect();
    used.extend(
        places
            .iter()
            .map(|(at, _)| (*at, at.saturating_add(state.span))),
    );
    used.push((state.end, state.end));
    used.sort_unstable();
    let (mut at, mut leaked) = (0_u64, 0);
    for (start, end) in used {
        let gap = start.min(state.end).saturating_sub(at);
        leaked += if gap > GAP { gap } else { 0 };
        at = at.max(end);
    }
    leaked
}
