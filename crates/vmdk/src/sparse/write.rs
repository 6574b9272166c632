//! Writing: new grains, discards, and the tables in their order.

use std::io::Result;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use cantle_image::Storage;
use rustix::io::Errno;

use super::header::{TABLE_ENTRIES, UNCLEAN_AT};
use super::layout::ADDRESSABLE;
use super::tables::{self, MAX_DIRTY};
use super::{Place, Sparse, State};
use crate::parent::Under;
use crate::punch::punch;

impl<S: Storage> Sparse<S> {
    pub(crate) fn write(&self, at: u64, from: &[u8], under: Under<'_>) -> Result<()> {
        let (mut at, mut rest) = (at, from);
        while !rest.is_empty() {
            let mut state = self.state();
            if state.tables.dirty() >= MAX_DIRTY {
                drop(state);
                self.flush()?;
                continue;
            }
            let (place, len) = self.locate_in(&mut state, at, rest.len() as u64)?;
            let len = usize::try_from(len).map_or(rest.len(), |len| len.min(rest.len()));
            let (here, after) = rest.split_at(len);
            match place {
                Place::At(offset) => {
                    // Grains do not move: nobody has to wait for this.
                    drop(state);
                    self.storage.write_at(offset, here)?;
                }
                Place::Zero => self.allocate(&mut state, at, here, None)?,
                Place::Nothing => self.allocate(&mut state, at, here, under.some())?,
                Place::Packed(_) => return Err(Errno::ROFS.into()),
            }
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    /// Writes grains that are nowhere yet; what of them is not written comes from `under`, or is zeroes.
    fn allocate(
        &self,
        state: &mut State,
        at: u64,
        from: &[u8],
        under: Option<Under<'_>>,
    ) -> Result<()> {
        let header = &self.layout.header;
        let bytes = self.grain_bytes();
        let first = at / bytes;
        let count = (at + from.len() as u64).div_ceil(bytes) - first;
        let sectors = count * header.grain;
        if state.next + sectors > ADDRESSABLE {
            return Err(Errno::NOSPC.into());
        }
        let whole = Span {
            disk: first * bytes,
            file: state.next * 512,
            len: sectors * 512,
        };
        if let Err(error) = self.fill(&whole, at, from, under) {
            // What lies there now must not show through a later grain that is written in part: it has to go, or that place is lost.
            let as_before = self.storage.set_len(state.len).is_ok()
                || self.storage.len().is_ok_and(|len| len == state.len);
            if !as_before {
                state.next += sectors;
                state.len = state.next * 512;
            }
            return Err(error);
        }
        let start = state.next;
        state.next += sectors;
        state.len = state.next * 512;
        for grain in 0..count {
            let number = (first + grain) / u64::from(TABLE_ENTRIES);
            let index = (first + grain) % u64::from(TABLE_ENTRIES);
            let (Ok(number), Ok(index), Ok(sector)) = (
                u32::try_from(number),
                usize::try_from(index),
                u32::try_from(start + grain * header.grain),
            ) else {
                return Err(Errno::NOSPC.into());
            };
            let table = state.tables.get(number, &self.layout, &self.storage)?;
            // Such an extent is not opened for writing.
            table.ok_or(Errno::ROFS)?;
            state.tables.set(number, index, sector);
        }
        Ok(())
    }

    /// Writes `from`, which belongs to the disk's byte `at`, into the new span, which reaches its end of the file then.
    fn fill(&self, whole: &Span, at: u64, from: &[u8], under: Option<Under<'_>>) -> Result<()> {
        let skip = at - whole.disk;
        let Some(under) = under else {
            if skip + (from.len() as u64) < whole.len {
                self.storage.set_len(whole.file + whole.len)?;
            }
            return self.storage.write_at(whole.file + skip, from);
        };
        let (Ok(len), Ok(skip)) = (usize::try_from(whole.len), usize::try_from(skip)) else {
            return Err(Errno::NOMEM.into());
        };
        let mut buffer = vec![0; len];
        let capacity = self.layout.header.capacity * 512;
        let (head, rest) = buffer.split_at_mut(skip);
        let (body, tail) = rest.split_at_mut(from.len());
        under.read(whole.disk, head)?;
        body.copy_from_slice(from);
        let tail_at = at + from.len() as u64;
        let on_disk = usize::try_from(capacity.saturating_sub(tail_at)).unwrap_or(usize::MAX);
        let on_disk = on_disk.min(tail.len());
        under.read(tail_at, tail.split_at_mut(on_disk).0)?;
        self.storage.write_at(whole.file, &buffer)
    }

    /// Frees what is allocated, where it is: so nothing moves, and no table changes.
    pub(crate) fn discard(&self, at: u64, len: u64) -> Result<()> {
        let (mut at, mut left) = (at, len);
        while left > 0 {
            let (place, here) = self.locate(at, left)?;
            if let Place::At(offset) = place {
                punch(&self.storage, offset, here)?;
            }
            at += here;
            left -= here;
        }
        Ok(())
    }

    /// Brings all to the medium: grains, then tables.
    pub(crate) fn flush(&self) -> Result<()> {
        let _alone = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.state().tables.take_dirty();
        let result = self.storage.sync().and_then(|()| {
            if taken.is_empty() {
                return Ok(());
            }
            for (number, entries) in &taken {
                let copy = tables::at(&self.layout.copies, *number);
                if copy != 0 {
                    tables::write(&self.storage, copy, entries)?;
                }
                tables::write(
                    &self.storage,
                    tables::at(&self.layout.tables, *number),
                    entries,
                )?;
            }
            self.storage.sync()
        });
        self.state().tables.written(&taken, result.is_ok());
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Says in the header whether the extent is in use. Not synchronised.
    pub(crate) fn set_unclean(&self, unclean: bool) -> Result<()> {
        self.storage.write_at(UNCLEAN_AT, &[u8::from(unclean)])
    }
}

/// New grains: bytes of the disk, and of the file.
struct Span {
    disk: u64,
    file: u64,
    len: u64,
}
