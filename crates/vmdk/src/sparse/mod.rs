//! A sparse extent: grains that are allocated when they are first written, at the end of the file.
//!
//! # What a crash can leave
//!
//! A grain is written, whole and where nothing was before, while its entry is only in memory; [`Sparse::flush`] brings the grains to the
//! medium, then writes the tables that changed (the copy first), then brings those there. An entry on the medium is thus old or
//! new, each right, however a table's sectors were torn. What a crash leaves besides: grains that no entry names (leaks), and a
//! table that differs from its copy; both are what [`check`](self::check) repairs. Grains never move, and none is used again for another
//! place of the disk.

pub(crate) mod check;
pub(crate) mod header;
pub(crate) mod layout;
mod packed;
mod tables;
mod write;

use std::io::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cantle_image::Storage;

use crate::parent::Under;
use header::TABLE_ENTRIES;
use layout::{ADDRESSABLE, Layout, LayoutError};
use tables::{Entries, Tables};

/// Most tables that one call of [`Sparse::locate`] looks at.
const TABLES_AT_ONCE: u64 = 64;

#[derive(Debug)]
pub(crate) struct Sparse<S> {
    storage: S,
    layout: Layout,
    state: Mutex<State>,
    /// Held by who flushes: a flush that finds nothing to do must not return before one that is at work.
    flushing: Mutex<()>,
    /// Whether a flush has ever failed.
    failed: AtomicBool,
    unpacked: Mutex<packed::Unpacked>,
}

#[derive(Debug)]
struct State {
    tables: Tables,
    /// The file's length in bytes.
    len: u64,
    /// The sector of the next grain.
    next: u64,
}

/// Where the bytes of a run of grains are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this byte of the file.
    At(u64),
    /// They are zeroes.
    Zero,
    /// Not here: in the parent, or zeroes.
    Nothing,
    /// Compressed, with a marker at this sector; the run is of one grain.
    Packed(u32),
}

impl<S: Storage> Sparse<S> {
    pub(crate) fn open(storage: S) -> std::result::Result<Self, LayoutError> {
        let layout = Layout::read(&storage)?;
        let state = State::of(&storage, &layout).map_err(LayoutError::Read)?;
        Ok(Self {
            storage,
            layout,
            state: Mutex::new(state),
            flushing: Mutex::new(()),
            failed: AtomicBool::new(false),
            unpacked: Mutex::default(),
        })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn storage(&self) -> &S {
        &self.storage
    }

    /// Whether a flush has ever failed: what it was about may then be lost.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Bytes of a grain.
    pub(crate) fn grain_bytes(&self) -> u64 {
        self.layout.header.grain * 512
    }

    /// Where the bytes at `at` are, and how many of the next `len` lie there together: at least 1.
    pub(crate) fn locate(&self, at: u64, len: u64) -> Result<(Place, u64)> {
        self.locate_in(&mut self.state(), at, len)
    }

    fn locate_in(&self, state: &mut State, at: u64, len: u64) -> Result<(Place, u64)> {
        let bytes = self.grain_bytes();
        let per_table = u64::from(TABLE_ENTRIES);
        let first = at / bytes;
        let skip = at % bytes;
        let (mut grain, mut start, mut covered) = (first, None, 0);
        'tables: for _ in 0..TABLES_AT_ONCE {
            if covered >= len {
                break;
            }
            let number = u32::try_from(grain / per_table).map_err(|_| ErrorKind::InvalidInput)?;
            let file = state.len / 512;
            let table = state.tables.get(number, &self.layout, &self.storage);
            let table = match table {
                Ok(table) => table,
                // Whoever asks from there on gets it.
                Err(_) if start.is_some() => break,
                Err(error) => return Err(error),
            };
            for index in grain % per_table..per_table {
                let place = match self.place(grain, entry(table, index), file) {
                    Ok(place) => place,
                    Err(_) if start.is_some() => break 'tables,
                    Err(error) => return Err(error),
                };
                match start {
                    None => start = Some(place),
                    Some(start) if follows(start, place, (grain - first) * bytes) => {}
                    Some(_) => break 'tables,
                }
                grain += 1;
                covered = (grain - first) * bytes - skip;
                if covered >= len {
                    break 'tables;
                }
            }
        }
        let place = match start.ok_or(ErrorKind::InvalidInput)? {
            Place::At(offset) => Place::At(offset + skip),
            other => other,
        };
        Ok((place, covered.min(len)))
    }

    /// What an entry says, checked; `file` is the file's length in sectors.
    fn place(&self, grain: u64, entry: u32, file: u64) -> Result<Place> {
        let sector = u64::from(entry);
        match entry {
            0 => Ok(Place::Nothing),
            1 if self.layout.header.zeroed => Ok(Place::Zero),
            _ => match self.fault(grain, sector, file) {
                Some(fault) => Err(Error::new(
                    ErrorKind::InvalidData,
                    format!("grain {grain} at sector {sector} is {fault}"),
                )),
                None if self.layout.header.compressed => Ok(Place::Packed(entry)),
                None => Ok(Place::At(sector * 512)),
            },
        }
    }

    /// What is wrong with a grain at this sector.
    fn fault(&self, grain: u64, sector: u64, file: u64) -> Option<Fault> {
        let header = &self.layout.header;
        // The last grain need not be whole; of a compressed one, the marker is checked again when it is read.
        let left = header.capacity.saturating_sub(grain * header.grain);
        let size = if header.compressed {
            1
        } else {
            left.min(header.grain)
        };
        if sector + size > file {
            Some(Fault::BeyondEnd)
        } else if self.layout.is_occupied(sector, size) {
            Some(Fault::InMetadata)
        } else {
            None
        }
    }

    pub(crate) fn read(&self, at: u64, into: &mut [u8], under: Under<'_>) -> Result<()> {
        let (mut at, mut rest) = (at, into);
        while !rest.is_empty() {
            let (place, len) = self.locate(at, rest.len() as u64)?;
            let len = usize::try_from(len).map_or(rest.len(), |len| len.min(rest.len()));
            let (here, after) = rest.split_at_mut(len);
            match place {
                Place::At(offset) => self.storage.read_at(offset, here)?,
                Place::Zero => here.fill(0),
                Place::Nothing => under.read(at, here)?,
                Place::Packed(sector) => self.read_packed(at, sector, here)?,
            }
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(storage: &impl Storage, layout: &Layout) -> Result<Self> {
        let len = storage.len()?;
        let end = len.div_ceil(512).min(ADDRESSABLE);
        Ok(Self {
            tables: Tables::default(),
            len,
            next: end
                .next_multiple_of(layout.header.grain)
                .max(layout.data_start()),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    BeyondEnd,
    InMetadata,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BeyondEnd => "beyond the end of the file",
            Self::InMetadata => "where metadata is",
        })
    }
}

fn entry(table: Option<&Entries>, index: u64) -> u32 {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    table
        .and_then(|table| table.get(index))
        .copied()
        .unwrap_or(0)
}

/// Whether a grain goes on where the run from `start` is, `after` so many bytes.
fn follows(start: Place, place: Place, after: u64) -> bool {
    match (start, place) {
        (Place::At(from), Place::At(here)) => from.checked_add(after) == Some(here),
        (Place::Zero, Place::Zero) | (Place::Nothing, Place::Nothing) => true,
        _ => false,
    }
}
