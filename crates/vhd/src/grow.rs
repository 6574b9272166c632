//! Making the disk larger, and other changes of what headers and footers say.

use std::io::{Error, ErrorKind, Result};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::create::MAX_SECTORS;
use crate::footer::{FOOTER_LEN, Footer};
use crate::header::{HEADER_SECTOR, MAX_BLOCKS, empty_batmap, table_len};
use crate::state::State;
use crate::table::Table;
use crate::write::clear;
use crate::{Kind, Vhd};

/// So many blocks are a whole sector of the table.
const TABLE_STEP: u64 = 128;

impl Vhd {
    /// Marks the image as hidden, as Xen's storage managers do with images that only others stand on, or as not hidden.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn set_hidden(&self, hidden: bool) -> Result<()> {
        self.writable()?;
        let mut state = self.state();
        let mut footer = state.footer.clone();
        footer.set_hidden(hidden);
        self.replace_footer(&mut state, footer)
    }

    pub(crate) fn grow_to(&self, sectors: u64) -> Result<()> {
        self.writable()?;
        let old = self.bytes() / 512;
        if sectors < old {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the disk would become smaller",
            ));
        }
        if sectors > MAX_SECTORS {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a VHD disk cannot be so large",
            ));
        }
        if sectors == old {
            return Ok(());
        }
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        if self.layout.kind == Kind::Fixed {
            self.grow_fixed(&mut state, sectors)?;
        } else {
            self.grow_blocks(&mut state, old, sectors)?;
        }
        self.sectors.store(sectors, Ordering::Relaxed);
        Ok(())
    }

    /// A fixed image has only one footer, so there must be a good one at the end at each moment: first one that says the old size comes to
    /// where the new end is, then the old one becomes a part of the disk, then the new one says the new size.
    fn grow_fixed(&self, state: &mut State, sectors: u64) -> Result<()> {
        let end = sectors * 512;
        if self.layout.device {
            return Err(ErrorKind::Unsupported.into());
        }
        // An image can have more room than its disk; what is there is not known to be zeroes.
        let old = self.bytes();
        let footer_at = state.end.max(end);
        let mut footer = state.footer.clone();
        if footer_at > state.end {
            self.storage.write_at(footer_at, footer.raw())?;
            self.storage.sync()?;
        }
        clear(
            &*self.storage,
            old,
            end.min(state.end + FOOTER_LEN).min(footer_at) - old,
        )?;
        self.storage.sync()?;
        footer.set_size(sectors);
        self.storage.write_at(footer_at, footer.raw())?;
        self.storage.sync()?;
        state.end = footer_at;
        state.footer = footer;
        Ok(())
    }

    fn grow_blocks(&self, state: &mut State, old: u64, sectors: u64) -> Result<()> {
        let below = self
            .parent
            .as_ref()
            .map_or(0, |parent| parent.geometry().bytes());
        if below > old * 512 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the parent is larger than the disk, and would be seen",
            ));
        }
        let blocks = (sectors * 512).div_ceil(self.layout.block_size);
        let count = u32::try_from(blocks).unwrap_or(u32::MAX);
        if blocks > MAX_BLOCKS {
            return Err(Error::new(ErrorKind::InvalidInput, "too many blocks"));
        }
        let batch = state.leave();
        let written = self.write_batch(&batch);
        state.arrived(batch, written.is_ok());
        written?;
        self.clear_tail(state, old * 512)?;
        let Some(mut header) = state.header.clone() else {
            return Err(ErrorKind::InvalidData.into());
        };
        let used = header.entries();
        if count > used {
            let entries = u32::try_from(blocks.next_multiple_of(TABLE_STEP)).unwrap_or(count);
            let at = self.write_table(state, used, entries)?;
            header.set_table(at, entries);
            let sector = header.raw().get(..HEADER_SECTOR).unwrap_or_default();
            self.storage.write_at(state.footer.data_offset(), sector)?;
            self.storage.sync()?;
            state.header = Some(header.clone());
        }
        state.table = Table::read(&*self.storage, header.table_offset(), count)?;
        state.find_room(self.layout.device);
        let mut footer = state.footer.clone();
        footer.set_size(sectors);
        self.replace_footer(state, footer)
    }

    /// The rest of the last block, which was not a part of the disk, becomes zeroes where it is not the parent's.
    fn clear_tail(&self, state: &mut State, old: u64) -> Result<()> {
        let (block, within) = self.block_of(old)?;
        match state.block_at(block)? {
            Some(at) if within != 0 => {
                let start = at + self.layout.bitmap_len + within;
                let end = (at + self.layout.span()).min(state.end);
                clear(&*self.storage, start, end.saturating_sub(start))
            }
            _ => Ok(()),
        }
    }

    /// Writes a larger table, and a batmap if there may be one, to where the next block would be; where that is.
    fn write_table(&self, state: &mut State, used: u32, entries: u32) -> Result<u64> {
        if state.damaged {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "the image's table is damaged",
            ));
        }
        let at = state.next.next_multiple_of(512);
        let mut bytes = state.table.enlarged(used, entries);
        if state.footer.may_have_batmap() {
            bytes.extend(empty_batmap(at + table_len(entries), entries));
        }
        let end = at + (bytes.len() as u64).next_multiple_of(512);
        if self.layout.device && end > state.end {
            return Err(ErrorKind::StorageFull.into());
        }
        if !self.layout.device {
            self.storage.write_at(end, state.footer.raw())?;
            state.end = end;
        }
        state.next = end;
        state.metadata.push(at..end);
        self.storage.write_at(at, &bytes)?;
        self.storage.sync()?;
        Ok(at)
    }

    /// Writes another footer to both ends, so that one of them is good at each moment.
    fn replace_footer(&self, state: &mut State, footer: Footer) -> Result<()> {
        if self.layout.kind != Kind::Fixed {
            self.storage.write_at(0, footer.raw())?;
            self.storage.sync()?;
        }
        self.storage.write_at(state.end, footer.raw())?;
        self.storage.sync()?;
        state.footer = footer;
        Ok(())
    }
}
