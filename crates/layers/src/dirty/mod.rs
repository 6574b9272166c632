//! What was written of a disk, by granules.

use std::fmt;
use std::fs::File;
use std::io::Result;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use cantle_image::{Extent, Format, Geometry, Mapped};

use crate::bitmap::Bitmap;
use crate::{Granularity, LiveDisk};

/// A layer that notes which granules of the disk below are written.
///
/// Only the first write to a granule comes by here; after that [`map`](Format::map) says that it may be written in place. So a granule's mark
/// can be taken away only together with what the disk remembers of it, and [`take`](Self::take) does both.
///
/// A mark is made before what it stands for is passed on, and taken only when nothing is under way in its range.
pub struct DirtyTracker {
    inner: Arc<dyn Format>,
    granularity: Granularity,
    marks: Mutex<Marks>,
    /// Held for reading by what writes, for writing by who waits for that.
    passing: RwLock<()>,
    gate: Option<Box<dyn Gate>>,
}

struct Marks {
    bits: Bitmap,
    /// The disk's size in bytes, when the bits were last made to fit it.
    size: u64,
}

/// What happens before granules become dirty that are not.
pub(crate) trait Gate: Send + Sync {
    /// Prepares for these granules' marks, and calls `mark`, which makes them.
    fn pass(&self, granules: Range<u64>, mark: &mut dyn FnMut()) -> Result<()>;
}

impl DirtyTracker {
    /// A layer over `inner`, all of which counts as clean, or as dirty.
    #[must_use]
    pub fn new(inner: Arc<dyn Format>, granularity: Granularity, dirty: bool) -> Self {
        let size = inner.geometry().bytes();
        let bits = Bitmap::new(granularity.count(size), dirty);
        Self::with(inner, granularity, bits, size, None)
    }

    /// A layer with these marks, made for a disk of `size` bytes; what it is larger now is dirty.
    pub(crate) fn with(
        inner: Arc<dyn Format>,
        granularity: Granularity,
        bits: Bitmap,
        size: u64,
        gate: Option<Box<dyn Gate>>,
    ) -> Self {
        Self {
            inner,
            granularity,
            marks: Mutex::new(Marks { bits, size }),
            passing: RwLock::default(),
            gate,
        }
    }

    /// The disk below.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn Format> {
        &self.inner
    }

    /// The size of a granule.
    #[must_use]
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// How many bytes are dirty, in whole granules.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.marks()
            .bits
            .count()
            .saturating_mul(self.granularity.bytes())
    }

    /// The dirty parts of the disk in bytes, as large as can be, in order.
    #[must_use]
    pub fn dirty(&self) -> Vec<Range<u64>> {
        let marks = self.marks();
        marks
            .bits
            .runs()
            .map(|run| self.granularity.bytes_of(run, marks.size))
            .collect()
    }

    /// Takes the marks off the first dirty run at or after the byte `from`, and off no more than `most` bytes (at least one granule) of it. From
    /// here on its bytes are the caller's to look at: what was written before can be read, and what is written after is marked
    /// again. `disk` is the disk that this layer is a part of. `None` where nothing is dirty from there on.
    ///
    /// # Errors
    ///
    /// The disk's; nothing is taken then.
    pub fn take(&self, disk: &dyn LiveDisk, from: u64, most: u64) -> Result<Option<Range<u64>>> {
        let taken = self.clear_first(from, most);
        if let Some(range) = &taken {
            // Whoever marked before has written when this is through; whoever comes later marks again.
            drop(self.passing.write().unwrap_or_else(PoisonError::into_inner));
            if let Err(error) = disk.forget(range.start, range.end - range.start) {
                self.put_back(range);
                return Err(error);
            }
        }
        Ok(taken)
    }

    /// As [`take`](Self::take), while nothing is under way and nothing is remembered anyhow.
    pub(crate) fn clear_first(&self, from: u64, most: u64) -> Option<Range<u64>> {
        let mut marks = self.marks();
        let granules = (most / self.granularity.bytes()).max(1);
        let run = marks.bits.run(self.granularity.of(from)..marks.bits.len());
        let run = run.start..run.end.min(run.start.saturating_add(granules));
        marks.bits.clear(run.clone());
        let bytes = self.granularity.bytes_of(run, marks.size);
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Marks bytes that were taken as dirty again.
    pub(crate) fn put_back(&self, range: &Range<u64>) {
        let granules = self
            .granularity
            .touched(range.start, range.end.saturating_sub(range.start));
        self.marks().bits.set(granules);
    }

    /// Looks at, or changes, the marks. Who takes marks away sees to it that they are forgotten.
    pub(crate) fn edit<R>(&self, edit: impl FnOnce(&mut Bitmap) -> R) -> R {
        edit(&mut self.marks().bits)
    }

    /// The marks, with some for what the disk has grown by.
    fn marks(&self) -> MutexGuard<'_, Marks> {
        let size = self.inner.geometry().bytes();
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if size > marks.size {
            let from = self.granularity.of(marks.size);
            let count = self.granularity.count(size);
            marks.bits.grow(count, true);
            marks.bits.set(from..count);
            marks.size = size;
        }
        marks
    }

    /// Marks what `write` is about, and calls it.
    fn pass(&self, offset: u64, len: u64, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let granules = self.granularity.touched(offset, len);
        let _passing = self.passing.read().unwrap_or_else(PoisonError::into_inner);
        if !self.marks().bits.all(granules.clone()) {
            let mut mark = || self.marks().bits.set(granules.clone());
            match &self.gate {
                None => mark(),
                Some(gate) => gate.pass(granules.clone(), &mut mark)?,
            }
        }
        write()
    }
}

impl Format for DirtyTracker {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn files(&self) -> Vec<Arc<File>> {
        self.inner.files()
    }

    fn map(&self, offset: u64, len: u64) -> Result<Mapped> {
        let mut mapped = self.inner.map(offset, len)?;
        if let Extent::Data { writable, .. } = &mut mapped.extent
            && *writable
        {
            let granules = self.granularity.touched(offset, mapped.len);
            let (dirty, end) = self.marks().bits.same(granules);
            *writable = dirty;
            let end = end.saturating_mul(self.granularity.bytes());
            mapped.len = mapped.len.min(end.saturating_sub(offset).max(512));
        }
        Ok(mapped)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.inner.read(offset, into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.pass(offset, from.len() as u64, || self.inner.write(offset, from))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.pass(offset, len, || self.inner.discard(offset, len))
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    fn grow(&self, sectors: u64) -> Result<()> {
        self.inner.grow(sectors)
    }
}

impl fmt::Debug for DirtyTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyTracker")
            .field("granularity", &self.granularity)
            .field("dirty_bytes", &self.dirty_bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
