//! Bringing the tables to the medium, after what they point to.

use std::io::Result;
use std::sync::PoisonError;

use crate::Vhd;
use crate::state::State;

/// Metadata on its way to the medium.
pub(crate) struct Batch {
    /// What to write where.
    writes: Vec<(u64, Vec<u8>)>,
    /// Whose bitmaps are among it.
    blocks: Vec<u32>,
    /// Which of the table's sectors are among it.
    sectors: Vec<usize>,
}

impl Vhd {
    /// In this order: what was written is brought to the medium; the bits and entries that point to it are written; they are brought to
    /// the medium. They are those that there were before the first of it, since what is written meanwhile is not covered.
    pub(crate) fn flush_all(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = self.state().leave();
        let result = self.write_batch(&batch);
        self.state().arrived(batch, result.is_ok());
        result
    }

    pub(crate) fn flush_if_dirty(&self) -> Result<()> {
        let state = self.state();
        let dirty = state.table.changes() + state.bitmaps.dirty() != 0;
        drop(state);
        if dirty { self.flush_all() } else { Ok(()) }
    }

    pub(crate) fn write_batch(&self, batch: &Batch) -> Result<()> {
        self.storage.sync()?;
        if batch.writes.is_empty() {
            return Ok(());
        }
        for (offset, bytes) in &batch.writes {
            self.storage.write_at(*offset, bytes)?;
        }
        self.storage.sync()
    }
}

impl State {
    /// What waits to be written.
    pub(crate) fn leave(&mut self) -> Batch {
        let bitmaps = self.bitmaps.leave();
        let table = self.table.leave();
        let mut batch = Batch {
            writes: Vec::with_capacity(bitmaps.len() + table.len()),
            blocks: bitmaps.iter().map(|(block, _)| *block).collect(),
            sectors: table.iter().map(|(sector, _)| *sector).collect(),
        };
        for (block, bits) in bitmaps {
            // Only blocks that are there have bitmaps.
            if let Ok(Some(at)) = self.block_at(block) {
                batch.writes.push((at, bits));
            }
        }
        let offset = self
            .header
            .as_ref()
            .map_or(0, |header| header.table_offset());
        for (sector, bytes) in table {
            batch.writes.push((offset + sector as u64 * 512, bytes));
        }
        batch
    }

    /// The batch is on the medium, or it is to be written again.
    pub(crate) fn arrived(&mut self, batch: Batch, safely: bool) {
        self.bitmaps.arrived(batch.blocks.into_iter(), safely);
        if !safely {
            self.table.failed(batch.sectors.into_iter());
        }
    }
}
