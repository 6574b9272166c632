//! The old bytes of what was written since a snapshot.

use std::io::{Error, Result};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cantle_image::{Extent, Format, Storage};

use crate::Granularity;
use crate::bitmap::Bitmap;

/// How many granules can be copied or read at the same time.
const STRIPES: u64 = 64;

const LIVE: u8 = 0;
const BROKEN: u8 = 1;
const ENDED: u8 = 2;

/// What the layer and the view share.
pub(super) struct Store {
    pub(super) inner: Arc<dyn Format>,
    pub(super) storage: Box<dyn Storage>,
    pub(super) granularity: Granularity,
    /// The disk's size in bytes at the instant.
    pub(super) size: u64,
    /// The granules whose old bytes are in the storage.
    copied: Mutex<Bitmap>,
    /// A granule is read from below, or copied, under its lock.
    stripes: Vec<Mutex<()>>,
    stage: AtomicU8,
}

impl Store {
    pub(super) fn new(
        inner: Arc<dyn Format>,
        storage: Box<dyn Storage>,
        granularity: Granularity,
    ) -> Self {
        let size = inner.geometry().bytes();
        Self {
            inner,
            storage,
            granularity,
            size,
            copied: Mutex::new(Bitmap::new(granularity.count(size), false)),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            stage: AtomicU8::new(LIVE),
        }
    }

    pub(super) fn copied(&self) -> MutexGuard<'_, Bitmap> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a granule as it is. `None` cannot be: the remainder is in the list.
    fn hold(&self, granule: u64) -> Option<MutexGuard<'_, ()>> {
        let stripe = usize::try_from(granule % STRIPES).unwrap_or(0);
        let lock = self.stripes.get(stripe)?;
        Some(lock.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the layer copies. SeqCst here and below: who does not copy any more writes after it has seen that; a reader looks at
    /// it after it has read.
    pub(super) fn is_live(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == LIVE
    }

    pub(super) fn is_broken(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == BROKEN
    }

    pub(super) fn end(&self) {
        self.stage.store(ENDED, Ordering::SeqCst);
    }

    /// Sees to it that the old bytes of a range are copied, or that the snapshot is broken.
    pub(super) fn preserve(&self, offset: u64, len: u64) {
        let mut buffer = Vec::new();
        for granule in self
            .granularity
            .touched(offset, len.min(self.size.saturating_sub(offset)))
        {
            if !self.is_live() {
                return;
            }
            if self.copied().get(granule) {
                continue;
            }
            let _held = self.hold(granule);
            if self.copied().get(granule) {
                continue;
            }
            if let Err(error) = self.copy(granule, &mut buffer) {
                tracing::warn!(%error, granule, "a snapshot is broken: its store cannot take what is written over");
                // Not over an end.
                let _ =
                    self.stage
                        .compare_exchange(LIVE, BROKEN, Ordering::SeqCst, Ordering::SeqCst);
                return;
            }
            self.copied().set(granule..granule + 1);
        }
    }

    fn copy(&self, granule: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let bytes = self.granularity.bytes_of(granule..granule + 1, self.size);
        let len = bytes.end - bytes.start;
        let mapped = self.inner.map(bytes.start, len)?;
        if mapped.extent == Extent::Zero && mapped.len == len {
            // A hole in the store; but the file has to go as far.
            if self.storage.len()? < bytes.end {
                self.storage.set_len(self.size)?;
            }
            return Ok(());
        }
        buffer.resize(usize::try_from(len).map_err(Error::other)?, 0);
        self.inner.read(bytes.start, buffer)?;
        self.storage.write_at(bytes.start, buffer)
    }

    /// Reads what was there at the instant.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() {
            let granule = self.granularity.of(at);
            let end = self
                .granularity
                .bytes_of(granule..granule + 1, self.size)
                .end;
            let here = usize::try_from(end.saturating_sub(at))
                .unwrap_or(usize::MAX)
                .min(rest.len());
            if here == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let (now, after) = rest.split_at_mut(here);
            self.read_granule(granule, at, now)?;
            at += here as u64;
            rest = after;
        }
        Ok(())
    }

    fn read_granule(&self, granule: u64, at: u64, into: &mut [u8]) -> Result<()> {
        if self.copied().get(granule) {
            return self.storage.read_at(at, into);
        }
        let _held = self.hold(granule);
        if self.copied().get(granule) {
            return self.storage.read_at(at, into);
        }
        self.inner.read(at, into)?;
        if self.is_broken() {
            return Err(Error::other("the snapshot is broken: its store was full"));
        }
        Ok(())
    }
}
