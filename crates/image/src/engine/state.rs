//! What is known of a format's disk, and who uses it.
//!
//! Three rules keep the short way and the long way apart.
//!
//! 1. A request that goes the short way is counted, in the same moment in which it looks its extents up, in the present *epoch*. Who
//!    forgets extents begins a new epoch and waits until nobody is left in the old one.
//! 2. The long way's requests hold `slow` for reading; who forgets, discards or changes the format holds it for writing for a moment, so
//!    none is half done then.
//! 3. What a read found out is entered only if nobody has written the long way or forgotten anything meanwhile: it may be old. What a
//!    write found out of its own bytes stays true, since a format does not move what may be written in place; it is entered only if
//!    nobody has forgotten anything.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::FormatOptions;
use super::extents::Extents;
use crate::geometry::LiveGeometry;
use crate::raw::twin;
use crate::uring::Piece;
use crate::{Durability, Extent, Format, Geometry, ImageError, Io, IoOp, Mapped, SECTOR_SIZE};

/// How long to sleep before one looks again whether the requests of an epoch are over.
const LOOK: Duration = Duration::from_micros(50);
/// The most that is copied at once for a request that goes the long way.
const CHUNK: usize = 1 << 20;
/// How far beyond a read one looks where bytes lie, since the next read is likely to be there.
const AHEAD: u64 = 64 << 20;
/// How many extents beyond the read's own that may be.
const MOST_AHEAD: usize = 32;
/// The most pieces that a request that goes the short way is made of.
const MOST_PIECES: usize = 64;

pub(super) struct State {
    known: RwLock<Known>,
    /// Requests on the short way, by epoch.
    in_flight: [AtomicU64; 2],
    /// One who forgets at a time.
    forgetting: Mutex<()>,
    slow: RwLock<()>,
    format: RwLock<Arc<dyn Format>>,
    geometry: RwLock<Arc<LiveGeometry>>,
    options: FormatOptions,
    /// Writes the long way, begun and done.
    writes: [AtomicU64; 2],
    /// Something was written that a flush has not been asked for.
    dirty: AtomicU64,
}

struct Known {
    extents: Extents,
    /// How often something was forgotten; its lowest bit is the epoch.
    forgotten: u64,
    /// All files there ever were: as formats have them, and as queues use them.
    files: Vec<(Arc<File>, Arc<File>)>,
    /// Where the present format's files are among them.
    places: Vec<u16>,
}

/// What was known when a request the long way began.
struct Before {
    forgotten: u64,
    writes: Option<u64>,
}

fn lock<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn lock_mut<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(super) fn new(format: Arc<dyn Format>, options: FormatOptions) -> Result<Self> {
        let geometry = Arc::new(LiveGeometry::new(offered(format.geometry())));
        let state = Self {
            known: RwLock::new(Known {
                extents: Extents::default(),
                forgotten: 0,
                files: Vec::new(),
                places: Vec::new(),
            }),
            in_flight: Default::default(),
            forgetting: Mutex::default(),
            slow: RwLock::default(),
            format: RwLock::new(format),
            geometry: RwLock::new(geometry),
            options,
            writes: Default::default(),
            dirty: AtomicU64::new(0),
        };
        state.take_files(0)?;
        Ok(state)
    }

    pub(super) fn format(&self) -> Arc<dyn Format> {
        Arc::clone(&lock(&self.format))
    }

    pub(super) fn geometry(&self) -> Geometry {
        lock(&self.geometry).now()
    }

    /// The files from the `from`th on.
    pub(super) fn files(&self, from: usize) -> Vec<Arc<File>> {
        let known = lock(&self.known);
        let files = known.files.iter().skip(from);
        files.map(|(_, twin)| Arc::clone(twin)).collect()
    }

    /// Opens the present format's files from the `from`th on as queues are to use them.
    fn take_files(&self, from: usize) -> Result<()> {
        let files = self.format().files();
        let mut known = lock_mut(&self.known);
        known.places.truncate(from);
        for file in files.iter().skip(known.places.len()) {
            let same = known
                .files
                .iter()
                .position(|(own, _)| Arc::ptr_eq(own, file));
            let place = match same {
                Some(place) => place,
                None => {
                    let (twin, _) = twin(file, self.options.caching)?;
                    known.files.push((Arc::clone(file), twin));
                    known.files.len() - 1
                }
            };
            let place = u16::try_from(place).map_err(|_| ErrorKind::StorageFull)?;
            known.places.push(place);
        }
        Ok(())
    }

    /// The short way for a read or write, if all of it is known: its pieces, and the epoch to give to [`left`](Self::left) when it is
    /// over. Zeroes are filled in on the spot.
    pub(super) fn enter(&self, io: &Io, pieces: &mut Vec<Piece>) -> Option<u8> {
        pieces.clear();
        let known = lock(&self.known);
        let writes = io.op() == IoOp::Write;
        let mut at = io.sector().checked_mul(SECTOR_SIZE)?;
        let mut left = io.bytes() as u64;
        let begin = at;
        while left != 0 {
            let Mapped { extent, len } = known.extents.at(at)?;
            let len = len.min(left);
            match extent {
                Extent::Data {
                    file,
                    offset,
                    writable,
                } if writable || !writes => match pieces.last_mut() {
                    Some(last) if last.file == file && last.offset + last.len == offset => {
                        last.len += len;
                    }
                    _ => pieces.push(Piece { file, offset, len }),
                },
                // Only where all is: a transfer's bytes come one after the other.
                Extent::Zero if !writes && at == begin && len == left => {}
                _ => return None,
            }
            if pieces.len() > MOST_PIECES {
                return None;
            }
            at += len;
            left -= len;
        }
        let epoch = epoch(known.forgotten);
        // Under the lock, so that who forgets sees either the count or a look-up that finds nothing. AcqRel: what this request does
        // happens before the decrement that lets the forgetting one go on.
        self.counter(epoch).fetch_add(1, Ordering::AcqRel);
        if writes {
            self.dirty.fetch_or(1, Ordering::Relaxed);
        }
        Some(epoch)
    }

    /// A request on the short way is over.
    pub(super) fn left(&self, epoch: u8) {
        // Release: pairs with the acquiring load in `forget`.
        self.counter(epoch).fetch_sub(1, Ordering::AcqRel);
    }

    fn counter(&self, epoch: u8) -> &AtomicU64 {
        let [even, odd] = &self.in_flight;
        if epoch & 1 == 0 { even } else { odd }
    }

    pub(super) fn forget(&self, offset: u64, len: u64) {
        let slow = lock_mut(&self.slow);
        self.forget_now(|extents| extents.remove(offset, len), || drop(slow));
    }

    /// Forgets, and waits for the short way's requests that may have used it. The caller holds `slow` for writing, which `meanwhile` may
    /// let go.
    fn forget_now(&self, remove: impl FnOnce(&mut Extents), meanwhile: impl FnOnce()) {
        let alone = self
            .forgetting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = {
            let mut known = lock_mut(&self.known);
            remove(&mut known.extents);
            let old = epoch(known.forgotten);
            known.forgotten = known.forgotten.wrapping_add(1);
            old
        };
        meanwhile();
        // Acquire: pairs with `left`.
        while self.counter(old).load(Ordering::Acquire) != 0 {
            std::thread::sleep(LOOK);
        }
        drop(alone);
    }

    pub(super) fn exclusive<R>(&self, change: impl FnOnce(&mut Arc<dyn Format>) -> R) -> Result<R> {
        let _slow = lock_mut(&self.slow);
        self.forget_now(Extents::clear, || ());
        let mut format = lock_mut(&self.format);
        let before = Arc::clone(&format);
        let result = change(&mut format);
        let now = offered(format.geometry());
        let same = Arc::ptr_eq(&before, &format);
        drop(format);
        if same {
            lock(&self.geometry).grow(now.sectors);
            self.take_files(usize::MAX)?;
        } else {
            *lock_mut(&self.geometry) = Arc::new(LiveGeometry::new(now));
            self.take_files(0)?;
        }
        Ok(result)
    }

    pub(super) fn flush(&self) -> Result<()> {
        let dirty = self.dirty.swap(0, Ordering::Relaxed);
        let result = self.format().flush();
        if result.is_err() {
            self.dirty.fetch_or(dirty, Ordering::Relaxed);
        }
        result
    }

    /// Flushes where something was written since the last time, and flushes mean something.
    pub(super) fn flush_if_dirty(&self) -> Result<()> {
        if self.options.durability == Durability::Flush
            && self.dirty.load(Ordering::Relaxed) & 2 != 0
        {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Does a request the long way. It may wait.
    pub(super) fn carry_out(
        &self,
        io: &Io,
        buffer: &mut Vec<u8>,
    ) -> std::result::Result<(), ImageError> {
        let outcome = match io.op() {
            IoOp::Flush => {
                let _slow = lock(&self.slow);
                self.flush()
            }
            IoOp::Read => self.read(io, buffer),
            IoOp::Write => self.write(io, buffer).and_then(|()| {
                if self.options.durability == Durability::Write {
                    self.flush()
                } else {
                    Ok(())
                }
            }),
            IoOp::Discard { sectors, .. } => self.discard(io.sector(), sectors),
        };
        outcome.map_err(|error| {
            if error.kind() != ErrorKind::Unsupported {
                tracing::debug!(%error, op = ?io.op(), sector = io.sector(), "a request to an image failed");
            }
            ImageError::of(&error)
        })
    }

    fn read(&self, io: &Io, buffer: &mut Vec<u8>) -> Result<()> {
        let _slow = lock(&self.slow);
        let format = self.format();
        for (skip, at, len) in chunks(io)? {
            let before = self.before(true);
            buffer.resize(len, 0);
            format.read(at, buffer)?;
            io.copy_in(skip, buffer);
            self.learn(&*format, at, len as u64, AHEAD, &before)?;
        }
        Ok(())
    }

    fn write(&self, io: &Io, buffer: &mut Vec<u8>) -> Result<()> {
        let _slow = lock(&self.slow);
        let format = self.format();
        for (skip, at, len) in chunks(io)? {
            buffer.resize(len, 0);
            // Out of the guest's memory once: what the format writes twice is the same twice.
            io.copy_out(skip, buffer);
            let before = self.before(false);
            let [begun, done] = &self.writes;
            begun.fetch_add(1, Ordering::SeqCst);
            let result = format.write(at, buffer);
            self.dirty.fetch_or(3, Ordering::Relaxed);
            if result.is_ok() {
                // No further: that it stays where it is, is said of a write's own bytes.
                self.learn(&*format, at, len as u64, 0, &before)?;
            } else {
                // Some of it may have found a place: what was known of it is not true any more.
                lock_mut(&self.known).extents.remove(at, len as u64);
            }
            done.fetch_add(1, Ordering::SeqCst);
            result?;
        }
        Ok(())
    }

    fn discard(&self, sector: u64, sectors: u64) -> Result<()> {
        let at = sector.wrapping_mul(SECTOR_SIZE);
        let len = sectors.wrapping_mul(SECTOR_SIZE);
        let _slow = lock_mut(&self.slow);
        self.forget_now(|extents| extents.remove(at, len), || ());
        self.dirty.fetch_or(3, Ordering::Relaxed);
        self.format().discard(at, len)
    }

    fn before(&self, reads: bool) -> Before {
        let [begun, done] = &self.writes;
        let forgotten = lock(&self.known).forgotten;
        let writes = reads.then(|| {
            let done = done.load(Ordering::SeqCst);
            let begun = begun.load(Ordering::SeqCst);
            // One under way: no number that can come matches.
            if done == begun { begun } else { u64::MAX }
        });
        Before { forgotten, writes }
    }

    /// Enters where bytes lie, and where those after them do up to `ahead` more, if that is known to be true still.
    fn learn(
        &self,
        format: &dyn Format,
        offset: u64,
        len: u64,
        ahead: u64,
        before: &Before,
    ) -> Result<()> {
        let (mut at, own_end) = (offset, offset + len);
        let end = own_end.saturating_add(ahead).min(self.geometry().bytes());
        let end = end.max(own_end);
        let mut found = Vec::new();
        let mut more = MOST_AHEAD;
        while at < end {
            if at >= own_end {
                if more == 0 {
                    break;
                }
                more -= 1;
            }
            let mapped = match format.map(at, end - at) {
                Ok(mapped) if mapped.len == 0 || mapped.len > end - at => {
                    return Err(Error::new(ErrorKind::InvalidData, "an extent of no length"));
                }
                Ok(mapped) => mapped,
                // Nobody has asked for it.
                Err(_) if at >= own_end => break,
                Err(error) => return Err(error),
            };
            found.push((at, mapped));
            at += mapped.len;
        }
        if format.files().len() > lock(&self.known).places.len() {
            self.take_files(usize::MAX)?;
        }
        let mut known = lock_mut(&self.known);
        let [begun, _] = &self.writes;
        let overtaken = before
            .writes
            .is_some_and(|writes| writes != begun.load(Ordering::SeqCst));
        if known.forgotten != before.forgotten || overtaken {
            return Ok(());
        }
        for (at, mut mapped) in found {
            if let Extent::Data { file, .. } = &mut mapped.extent {
                let place = known.places.get(usize::from(*file)).copied();
                *file = place.ok_or(ErrorKind::InvalidData)?;
            }
            known.extents.insert(at, mapped);
        }
        Ok(())
    }
}

/// What a disk of this engine offers of what its format has.
fn offered(geometry: Geometry) -> Geometry {
    Geometry {
        secure_discard: false,
        ..geometry
    }
}

/// The lowest bit of how often something was forgotten.
fn epoch(forgotten: u64) -> u8 {
    u8::from(forgotten & 1 != 0)
}

/// A request in parts that are copied at once: where in its memory, where on the disk in bytes, how many.
fn chunks(io: &Io) -> Result<impl Iterator<Item = (usize, u64, usize)>> {
    let start = io
        .sector()
        .checked_mul(SECTOR_SIZE)
        .ok_or(ErrorKind::InvalidInput)?;
    let bytes = io.bytes();
    Ok((0..bytes)
        .step_by(CHUNK)
        .map(move |skip| (skip, start + skip as u64, CHUNK.min(bytes - skip))))
}
