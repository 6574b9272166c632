//! Writing: into blocks that are there, and into new ones.

use std::io::{Error, ErrorKind, Result};

use cantle_image::Storage;

use crate::footer::FOOTER_LEN;
use crate::image::Place;
use crate::state::State;
use crate::table::UNUSED;
use crate::{Kind, Vhd};

/// A block's bytes begin at a multiple of this, so that a guest's pages are pages of the file.
const ALIGN: u64 = 4096;
/// Zeroes are written so many bytes at a time.
const ZEROES: usize = 1 << 16;
/// So many new blocks and changed bitmaps may wait for a flush; less where the bitmaps are large.
const MAX_WAITING: u64 = 1024;
/// So many bytes of changed bitmaps may wait.
const MAX_WAITING_BYTES: u64 = 4 << 20;

impl Vhd {
    pub(crate) fn writable(&self) -> Result<()> {
        if self.read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    pub(crate) fn write_all(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.writable()?;
        self.check_range(offset, from.len() as u64)?;
        if self.layout.kind == Kind::Fixed {
            return self.storage.write_at(offset, from);
        }
        let (mut at, mut rest) = (offset, from);
        while !rest.is_empty() {
            let (block, within) = self.block_of(at)?;
            let here = usize::try_from(self.layout.block_size - within).unwrap_or(usize::MAX);
            let (now, after) = rest.split_at(here.min(rest.len()));
            self.write_in_block(block, within, now)?;
            if self.is_much_waiting() {
                self.flush_all()?;
            }
            at += now.len() as u64;
            rest = after;
        }
        Ok(())
    }

    fn write_in_block(&self, block: u32, within: u64, from: &[u8]) -> Result<()> {
        let sectors = from.len() as u64 / 512;
        let mut state = self.state();
        let Some(at) = state.block_at(block)? else {
            return self.allocate(&mut state, block, within, from);
        };
        let data = at + self.layout.bitmap_len + within;
        let end = data + from.len() as u64;
        if end > state.end {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "a block of the image is not all there",
            ));
        }
        let bitmap = state.bitmaps.get(&*self.storage, block, at)?;
        let known = bitmap.run(within / 512, sectors) == (true, sectors);
        drop(state);
        self.storage.write_at(data, from)?;
        if !known {
            // Only now: a flush writes the bits that it finds, when what was written before is on the medium.
            let mut state = self.state();
            state.bitmaps.get(&*self.storage, block, at)?;
            state.bitmaps.set(block, within / 512, sectors);
        }
        Ok(())
    }

    /// Makes a new block and writes into it. Nothing points to it on the medium before the next flush.
    fn allocate(&self, state: &mut State, block: u32, within: u64, from: &[u8]) -> Result<()> {
        let (at, sector) = self.reserve(state)?;
        let full = self.layout.kind == Kind::Dynamic;
        let filled = self.fill(at, full).and_then(|()| {
            let data = at + self.layout.bitmap_len + within;
            self.storage.write_at(data, from)
        });
        if let Err(error) = filled {
            self.give_back(state, at);
            return Err(error);
        }
        self.keep(state, at);
        state.table.set(block, sector);
        state.bitmaps.insert(block, full);
        if !full {
            state
                .bitmaps
                .set(block, within / 512, from.len() as u64 / 512);
        }
        Ok(())
    }

    /// Finds room for a block, which reads as zeroes but for what was a footer, and makes the file long enough for it: by the footer behind
    /// it, so that the file does not end with what a guest has written.
    pub(crate) fn reserve(&self, state: &mut State) -> Result<(u64, u32)> {
        if state.damaged {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "the image's table is damaged: it gets no new blocks before a repair",
            ));
        }
        let bitmap = self.layout.bitmap_len;
        let align = ALIGN.min(self.layout.block_size);
        let at = (state.next + bitmap).next_multiple_of(align) - bitmap;
        let sector = u32::try_from(at / 512).unwrap_or(UNUSED);
        let end = at + self.layout.span();
        if sector == UNUSED || (self.layout.device && end > state.end) {
            return Err(ErrorKind::StorageFull.into());
        }
        if self.layout.device {
            clear(&*self.storage, at, self.layout.span())?;
        } else if let Err(error) = self.storage.write_at(end, state.footer.raw()) {
            self.give_back(state, at);
            return Err(error);
        }
        Ok((at, sector))
    }

    fn fill(&self, at: u64, full: bool) -> Result<()> {
        let len = usize::try_from(self.layout.bitmap_len).unwrap_or(0);
        let bits = vec![if full { 0xff } else { 0 }; len];
        self.storage.write_at(at, &bits)
    }

    /// The block of [`reserve`](Self::reserve) is used.
    pub(crate) fn keep(&self, state: &mut State, at: u64) {
        state.next = at + self.layout.span();
        if !self.layout.device {
            state.end = state.next;
        }
    }

    /// The block of [`reserve`](Self::reserve) is not used after all. It may have bytes in it already.
    pub(crate) fn give_back(&self, state: &mut State, at: u64) {
        if self.layout.device {
            return;
        }
        // The file loses the block and gets its footer back. Where even that fails, the place stays unused.
        let back = self.storage.set_len(state.end);
        match back.and_then(|()| self.storage.write_at(state.end, state.footer.raw())) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "a new block of a VHD image could neither be written nor taken back");
                if self
                    .storage
                    .len()
                    .is_ok_and(|len| len > state.end + FOOTER_LEN)
                {
                    self.keep(state, at);
                }
            }
        }
    }

    fn is_much_waiting(&self) -> bool {
        let state = self.state();
        let waiting = (state.table.changes() + state.bitmaps.dirty()) as u64;
        let by_size = MAX_WAITING_BYTES / self.layout.bitmap_len.max(1);
        waiting > by_size.clamp(16, MAX_WAITING)
    }

    /// Frees what of a range is in this image, as far as the host can. What was the parent's stays it.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.writable()?;
        self.check_range(offset, len)?;
        let (mut at, mut left) = (offset, len);
        while left > 0 {
            let (place, len) = self.locate(&mut self.state(), at, left)?;
            if let Place::Own(offset) = place {
                match self.storage.punch(offset, len) {
                    Err(error) if is_unsupported(&error) => return Ok(()),
                    punched => punched?,
                }
            }
            at += len;
            left -= len;
        }
        Ok(())
    }
}

fn is_unsupported(error: &Error) -> bool {
    let errno = error.raw_os_error();
    error.kind() == ErrorKind::Unsupported
        || errno == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
        || errno == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Makes a part of the file zeroes.
pub(crate) fn clear(storage: &dyn Storage, offset: u64, len: u64) -> Result<()> {
    if storage.punch(offset, len).is_ok() {
        return Ok(());
    }
    let zeroes = vec![0; ZEROES];
    let (mut at, mut left) = (offset, len);
    while left > 0 {
        let here = left.min(ZEROES as u64);
        let part = usize::try_from(here)
            .ok()
            .and_then(|here| zeroes.get(..here));
        storage.write_at(at, part.unwrap_or_default())?;
        at += here;
        left -= here;
    }
    Ok(())
}
