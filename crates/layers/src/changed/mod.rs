//! What has changed since the last backup, over restarts and crashes.

mod changes;
mod file;
mod id;

use std::fmt;
use std::fs::File;
use std::io::Result as IoResult;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use cantle_image::{Format, Geometry, Mapped, Storage};

use crate::bitmap::Bitmap;
use crate::dirty::Gate;
use crate::sealed::BadHeader;
use crate::{DirtyTracker, Granularity, LiveDisk};
pub use changes::Changes;
use file::{ChangeFile, Entry, Header, MOST};
pub use id::{GenerationId, NotAUuid};

/// Why changes cannot be told or tracked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangedError {
    /// The file is none of changed blocks, or damaged. A new one is to be made, and a full backup.
    #[error("the file of changed blocks cannot be used")]
    Header(#[source] BadHeader),
    /// No checkpoint of that name.
    #[error("no generation {0}")]
    Unknown(GenerationId),
    /// A file has no more than 64 generations; one is to be removed.
    #[error("the file has {0} generations already")]
    Full(usize),
    /// The last generation cannot be removed.
    #[error("generation {0} is the only one")]
    Only(GenerationId),
    /// The host failed.
    #[error("the host failed")]
    Io(#[from] std::io::Error),
}

/// A layer that remembers in a file which granules were written since each of a number of checkpoints.
///
/// **After a crash.** The file says whether there is something that it does not know of. It is made to say so, on the medium, before
/// the first write to a granule that the file does not have as written, and says it until [`save`](Self::save). Where it says so when
/// it is opened, everything counts as changed since the latest checkpoint, and so since each one before: a backup then reads too much,
/// never too little. This costs nothing while the disk is written. The data of a checkpoint is on the medium when it returns.
///
/// **Errors.** Where the file cannot be made to say so the write fails: going on could leave a file that looks whole and is not.
///
/// When the layer is dropped it saves.
pub struct ChangedBlocks {
    tracker: DirtyTracker,
    shared: Arc<Shared>,
}

/// A checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its name.
    pub id: GenerationId,
    /// When it was made.
    pub since: SystemTime,
    /// Whether everything from it to the next one counts as changed, since a crash or damage lost what did.
    pub all: bool,
}

struct Shared {
    file: Mutex<ChangeFile>,
}

impl Shared {
    fn file(&self) -> MutexGuard<'_, ChangeFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gate of the tracker: the file is in use before anything is marked that it does not have.
struct InUse(Arc<Shared>);

impl Gate for InUse {
    fn pass(&self, _granules: Range<u64>, mark: &mut dyn FnMut()) -> IoResult<()> {
        let mut file = self.0.file();
        if !file.header.in_use {
            let header = Header {
                in_use: true,
                ..file.header.clone()
            };
            file.replace(header)?;
        }
        mark();
        Ok(())
    }
}

impl ChangedBlocks {
    /// Begins to track `inner`, in a file whose contents are lost. The first generation begins here.
    ///
    /// # Errors
    ///
    /// [`ChangedError::Io`].
    pub fn create(
        inner: Arc<dyn Format>,
        file: Box<dyn Storage>,
        granularity: Granularity,
    ) -> Result<Self, ChangedError> {
        inner.flush()?;
        let disk = inner.geometry().bytes();
        let first = new_generation()?;
        let header = Header {
            sequence: 0,
            granularity,
            disk,
            in_use: false,
            generations: vec![first],
        };
        let file = ChangeFile::create(file, header)?;
        Ok(Self::with(
            inner,
            file,
            Bitmap::new(granularity.count(disk), false),
            disk,
        ))
    }

    /// Goes on with a file. Where it does not know all that has changed, because the host or the process crashed, everything counts as changed, and
    /// [`generations`](Self::generations) says so. What the disk has grown by since counts as changed.
    ///
    /// # Errors
    ///
    /// [`ChangedError::Header`] where it is no such file, [`ChangedError::Io`].
    pub fn open(inner: Arc<dyn Format>, file: Box<dyn Storage>) -> Result<Self, ChangedError> {
        let mut file = ChangeFile::open(file)?.map_err(ChangedError::Header)?;
        let now = inner.geometry().bytes();
        let (granularity, disk) = (file.header.granularity, file.header.disk);
        let mut lost = file.header.in_use || now < disk;
        let mut bits = Bitmap::new(granularity.count(now), false);
        if let Some(last) = file.header.generations.last()
            && let Some(place) = last.bitmap
            && !lost
        {
            match file.load(place)? {
                Some(saved) => bits.union(&saved),
                None => lost = true,
            }
        }
        if lost {
            tracing::warn!(
                disk,
                now,
                "what changed is not known: everything counts as changed"
            );
            bits.set(0..bits.len());
            let mut header = Header {
                disk: now,
                ..file.header.clone()
            };
            // Bitmaps of a larger disk would not fit this one's file.
            for entry in header.generations.iter_mut().filter(|_| now < disk) {
                (entry.all, entry.bitmap) = (true, None);
            }
            if let Some(last) = header.generations.last_mut() {
                (last.all, last.bitmap) = (true, None);
            }
            // Said before anything else is: from here on the bits are all set, and nothing is left to lose.
            header.in_use = false;
            file.replace(header)?;
        }
        Ok(Self::with(inner, file, bits, disk))
    }

    fn with(inner: Arc<dyn Format>, file: ChangeFile, bits: Bitmap, disk: u64) -> Self {
        let granularity = file.header.granularity;
        let shared = Arc::new(Shared {
            file: Mutex::new(file),
        });
        let gate = Box::new(InUse(Arc::clone(&shared)));
        let tracker = DirtyTracker::with(inner, granularity, bits, disk, Some(gate));
        Self { tracker, shared }
    }

    /// Ends the present generation and begins another one, whose name it returns, at an instant at which no request to `disk` is under
    /// way. `disk` is the disk that this layer is a part of. What was written before is on the medium then.
    ///
    /// For a backup, make the checkpoint first and the [snapshot](crate::Snapshot) after it: what is written between the two is then
    /// in this backup and in the next, and not in none.
    ///
    /// # Errors
    ///
    /// [`ChangedError::Full`], [`ChangedError::Io`]. The generation then goes on.
    pub fn checkpoint(&self, disk: &dyn LiveDisk) -> Result<GenerationId, ChangedError> {
        let next = new_generation()?;
        let id = next.id;
        if self.shared.file().header.generations.len() >= MOST {
            return Err(ChangedError::Full(MOST));
        }
        // Most of it, while the guest goes on.
        self.tracker.flush()?;
        let mut begun = false;
        let done = disk.exclusive(&mut |_| {
            self.begin(next.clone())?;
            begun = true;
            Ok(())
        });
        match done {
            Err(error) if !begun => Err(error.into()),
            _ => Ok(id),
        }
    }

    /// Begins a generation. Nothing is under way, and nothing is remembered of the disk.
    fn begin(&self, next: Entry) -> IoResult<()> {
        self.tracker.flush()?;
        let mut file = self.shared.file();
        let ended = self.tracker.edit(|bits| bits.clone());
        let place = file.store(&ended)?;
        // In use: were it not, and this failed half-way, bits that are set in memory would be missing in the new generation.
        let mut header = Header {
            in_use: true,
            disk: self.size(),
            ..file.header.clone()
        };
        if let Some(last) = header.generations.last_mut() {
            last.bitmap = Some(place);
        }
        header.generations.push(next);
        file.replace(header)?;
        // What a device grew by in this very moment stays.
        self.tracker.edit(|bits| {
            if *bits == ended {
                bits.clear(0..bits.len());
            }
        });
        Ok(())
    }

    /// What was written since a checkpoint, up to now.
    ///
    /// # Errors
    ///
    /// [`ChangedError::Unknown`], [`ChangedError::Io`].
    pub fn changed_since(&self, id: GenerationId) -> Result<Changes, ChangedError> {
        let file = self.shared.file();
        let (from, _) = position(&file.header, id)?;
        let (granularity, disk) = (self.tracker.granularity(), self.size());
        let mut bits = self.tracker.edit(|bits| bits.clone());
        let mut all = false;
        let last = file.header.generations.len().saturating_sub(1);
        for (index, entry) in file.header.generations.iter().enumerate().skip(from) {
            all |= entry.all;
            if let Some(place) = entry.bitmap
                && index != last
            {
                match file.load(place)? {
                    Some(saved) => bits.union(&saved),
                    None => all = true,
                }
            }
        }
        if all {
            bits.set(0..bits.len());
        }
        Ok(Changes {
            bits,
            granularity,
            disk,
            all,
        })
    }

    /// The checkpoints, oldest first. The last one's generation is the present one.
    #[must_use]
    pub fn generations(&self) -> Vec<Generation> {
        let file = self.shared.file();
        let generations = file.header.generations.iter();
        generations
            .map(|entry| Generation {
                id: entry.id,
                since: SystemTime::UNIX_EPOCH
                    + Duration::from_secs(entry.since.min(u32::MAX.into())),
                all: entry.all,
            })
            .collect()
    }

    /// Removes a checkpoint. What was written after it counts for the one before.
    ///
    /// # Errors
    ///
    /// [`ChangedError::Unknown`], [`ChangedError::Only`], [`ChangedError::Io`].
    pub fn remove(&self, id: GenerationId) -> Result<(), ChangedError> {
        let mut file = self.shared.file();
        let (index, last) = position(&file.header, id)?;
        let mut header = file.header.clone();
        if header.generations.len() == 1 {
            return Err(ChangedError::Only(id));
        }
        let gone = header.generations.remove(index);
        if let Some(before) = index
            .checked_sub(1)
            .and_then(|before| header.generations.get_mut(before))
        {
            let mut bits = Bitmap::default();
            before.all |= gone.all;
            // The present generation's bits are in memory, and are saved in time.
            let saved = if last {
                [before.bitmap, None]
            } else {
                [before.bitmap, gone.bitmap]
            };
            for place in saved.into_iter().flatten() {
                match file.load(place)? {
                    Some(saved) => bits.union(&saved),
                    None => before.all = true,
                }
            }
            if last {
                header.in_use = true;
                before.bitmap = None;
                file.replace(header)?;
                self.tracker.edit(|present| present.union(&bits));
                return Ok(());
            }
            before.bitmap = Some(file.store(&bits)?);
        }
        file.replace(header)?;
        Ok(())
    }

    /// Brings to the file what has changed up to now: until something else does, a crash loses nothing of it.
    ///
    /// # Errors
    ///
    /// The host's. A crash then loses it.
    pub fn save(&self) -> IoResult<()> {
        let mut file = self.shared.file();
        if !file.header.in_use {
            return Ok(());
        }
        let bits = self.tracker.edit(|bits| bits.clone());
        let place = file.store(&bits)?;
        let mut header = Header {
            in_use: false,
            disk: self.size(),
            ..file.header.clone()
        };
        if let Some(last) = header.generations.last_mut() {
            last.bitmap = Some(place);
        }
        let saved = file.replace(header);
        if saved.is_err() {
            // It may say so or not: the next mark makes sure.
            file.header.in_use = false;
        }
        saved
    }

    fn size(&self) -> u64 {
        self.tracker.geometry().bytes()
    }
}

/// Which generation has that name, and whether it is the present one.
fn position(header: &Header, id: GenerationId) -> Result<(usize, bool), ChangedError> {
    let mut generations = header.generations.iter();
    let at = generations
        .position(|entry| entry.id == id)
        .ok_or(ChangedError::Unknown(id))?;
    Ok((at, at + 1 == header.generations.len()))
}

fn new_generation() -> IoResult<Entry> {
    let id = GenerationId::random()?;
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Ok(Entry {
        id,
        since,
        all: false,
        bitmap: None,
    })
}

impl Drop for ChangedBlocks {
    fn drop(&mut self) {
        if let Err(error) = self.save() {
            tracing::error!(%error, "what changed could not be saved: everything will count as changed");
        }
    }
}

impl Format for ChangedBlocks {
    fn geometry(&self) -> Geometry {
        self.tracker.geometry()
    }
    fn files(&self) -> Vec<Arc<File>> {
        self.tracker.files()
    }
    fn map(&self, offset: u64, len: u64) -> IoResult<Mapped> {
        self.tracker.map(offset, len)
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> IoResult<()> {
        self.tracker.read(offset, into)
    }
    fn write(&self, offset: u64, from: &[u8]) -> IoResult<()> {
        self.tracker.write(offset, from)
    }
    fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        self.tracker.discard(offset, len)
    }
    fn flush(&self) -> IoResult<()> {
        self.tracker.flush()
    }
    fn grow(&self, sectors: u64) -> IoResult<()> {
        self.tracker.grow(sectors)
    }
}

impl fmt::Debug for ChangedBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangedBlocks")
            .field("generations", &self.generations())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
