//! A live disk without queues.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cantle_image::{Extent, Format, Geometry, Mapped};

use crate::LiveDisk;

/// The unit in which it remembers.
const UNIT: u64 = 4096;

/// A disk driven by plain calls that does with a [`Format`] the most that its contract allows: it remembers every answer of
/// [`map`](Format::map) for as long as it may, and goes straight to the file where that says so. Calls come from any thread.
pub struct EagerDisk {
    format: RwLock<Arc<dyn Format>>,
    known: Mutex<Known>,
    /// Held for reading by requests that go by what is known.
    straight: RwLock<()>,
    /// Held for reading by requests that ask the format.
    asking: RwLock<()>,
}

#[derive(Default)]
struct Known {
    extents: Vec<Option<(Arc<File>, u64)>>,
    forgotten: u64,
}

fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl EagerDisk {
    /// A disk of this format.
    #[must_use]
    pub fn new(format: Arc<dyn Format>) -> Arc<Self> {
        Arc::new(Self {
            format: RwLock::new(format),
            known: Mutex::default(),
            straight: RwLock::default(),
            asking: RwLock::default(),
        })
    }

    /// The format on top.
    #[must_use]
    pub fn format(&self) -> Arc<dyn Format> {
        Arc::clone(&read(&self.format))
    }

    /// The disk's size and nature.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.format().geometry()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes in units of 4096 bytes.
    ///
    /// # Errors
    ///
    /// The format's, or the file's.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        for (index, part) in (offset / UNIT..).zip(from.chunks(4096)) {
            self.write_unit(index, part)?;
        }
        Ok(())
    }

    fn write_unit(&self, index: u64, from: &[u8]) -> Result<()> {
        let place = usize::try_from(index).map_err(Error::other)?;
        {
            let _straight = read(&self.straight);
            let known = self.known().extents.get(place).cloned().flatten();
            if let Some((file, at)) = known {
                return file.write_all_at(from, at);
            }
        }
        let _asking = read(&self.asking);
        let format = self.format();
        let before = self.known().forgotten;
        format.write(index * UNIT, from)?;
        let Mapped { extent, len } = format.map(index * UNIT, UNIT)?;
        let files = format.files();
        if let Extent::Data {
            file,
            offset,
            writable: true,
        } = extent
            && len == UNIT
        {
            let file = files.get(usize::from(file)).ok_or(ErrorKind::InvalidData)?;
            let mut known = self.known();
            if known.forgotten == before {
                if known.extents.len() <= place {
                    known.extents.resize(place + 1, None);
                }
                if let Some(extent) = known.extents.get_mut(place) {
                    *extent = Some((Arc::clone(file), offset));
                }
            }
        }
        Ok(())
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// The format's.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let _asking = read(&self.asking);
        cantle_image::format::read_mapped(&*self.format(), offset, into)
    }

    /// Discards.
    ///
    /// # Errors
    ///
    /// The format's.
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.forget(offset, len)?;
        let _asking = write(&self.asking);
        self.forget(offset, len)?;
        self.format().discard(offset, len)
    }

    /// The whole disk.
    ///
    /// # Errors
    ///
    /// The format's.
    pub fn contents(&self) -> Result<Vec<u8>> {
        contents(&*self.format())
    }
}

/// All bytes of a format.
pub(crate) fn contents(format: &dyn Format) -> Result<Vec<u8>> {
    let len = usize::try_from(format.geometry().bytes()).map_err(Error::other)?;
    let mut bytes = vec![0; len];
    cantle_image::format::read_mapped(format, 0, &mut bytes)?;
    Ok(bytes)
}

impl LiveDisk for EagerDisk {
    /// Waits for those that go straight, and for no others.
    fn forget(&self, offset: u64, len: u64) -> Result<()> {
        {
            let mut known = self.known();
            known.forgotten += 1;
            let range = offset / UNIT..offset.saturating_add(len).div_ceil(UNIT);
            for (index, extent) in (0_u64..).zip(&mut known.extents) {
                if range.contains(&index) {
                    *extent = None;
                }
            }
        }
        drop(write(&self.straight));
        Ok(())
    }

    fn exclusive(&self, act: &mut dyn FnMut(&mut Arc<dyn Format>) -> Result<()>) -> Result<()> {
        let _asking = write(&self.asking);
        self.forget(0, u64::MAX)?;
        act(&mut write(&self.format))
    }
}

impl std::fmt::Debug for EagerDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EagerDisk")
            .field("geometry", &self.geometry())
            .finish_non_exhaustive()
    }
}
