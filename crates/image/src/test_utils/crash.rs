//! A file on a host that crashes.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Storage;

/// A file that remembers what was written since it was last synchronised, and can tell what a crash may have left of it.
#[derive(Debug)]
pub struct CrashFile {
    file: Arc<File>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    /// What is on the medium for certain.
    durable: Vec<u8>,
    pending: Vec<Change>,
    syncs: u64,
    /// How many more writes may be made before each fails.
    budget: Option<u64>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Len(u64),
    Punch { offset: u64, len: u64 },
}

/// What a medium writes whole or not at all.
const ATOM: usize = 512;

impl CrashFile {
    /// A file of its own, in no folder, with these contents, which are on the medium.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn new(contents: &[u8]) -> Result<Arc<Self>> {
        let file: Arc<File> = Arc::new(tempfile::tempfile()?);
        file.write_at(0, contents)?;
        Ok(Arc::new(Self {
            file,
            log: Mutex::new(Log {
                durable: contents.to_vec(),
                ..Log::default()
            }),
        }))
    }

    /// What may be on the medium after a crash now: all that was synchronised, and of every other change some sectors. `keep` is asked
    /// about each sector of each write, and about each change of the length, in their order.
    pub fn crash(&self, mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let log = self.log();
        let mut medium = log.durable.clone();
        for change in &log.pending {
            apply(&mut medium, change, &mut keep);
        }
        medium
    }

    /// How often it was synchronised.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.log().syncs
    }

    /// Lets so many more writes succeed; the ones after that fail with `ENOSPC`, without an effect. `None`: all succeed.
    pub fn set_budget(&self, writes: Option<u64>) {
        self.log().budget = writes;
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: Change, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut log = self.log();
        if let Some(left) = &mut log.budget {
            *left = left
                .checked_sub(1)
                .ok_or(Error::from_raw_os_error(libc::ENOSPC))?;
        }
        act()?;
        log.pending.push(change);
        Ok(())
    }
}

fn apply(medium: &mut Vec<u8>, change: &Change, keep: &mut impl FnMut() -> bool) {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    match change {
        Change::Len(len) => {
            if keep() {
                medium.resize(place(*len), 0);
            }
        }
        Change::Punch { offset, len } => {
            if keep() {
                let end = place(offset + len).min(medium.len());
                if let Some(part) = medium.get_mut(place(*offset)..end) {
                    part.fill(0);
                }
            }
        }
        Change::Write { offset, bytes } => {
            let mut at = place(*offset);
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let here = (ATOM - at % ATOM).min(rest.len());
                let (now, after) = rest.split_at(here);
                if keep() {
                    if medium.len() < at + here {
                        medium.resize(at + here, 0);
                    }
                    if let Some(to) = medium.get_mut(at..at + here) {
                        to.copy_from_slice(now);
                    }
                }
                at += here;
                rest = after;
            }
        }
    }
}

impl Storage for Arc<CrashFile> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<()> {
        let bytes = from.to_vec();
        self.change(Change::Write { offset, bytes }, || {
            self.file.write_at(offset, from)
        })
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(Change::Len(len), || Storage::set_len(&self.file, len))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.change(Change::Punch { offset, len }, || {
            self.file.punch(offset, len)
        })
    }

    fn sync(&self) -> Result<()> {
        let mut log = self.log();
        log.syncs += 1;
        let mut durable = std::mem::take(&mut log.durable);
        for change in std::mem::take(&mut log.pending) {
            apply(&mut durable, &change, &mut || true);
        }
        log.durable = durable;
        Ok(())
    }

    /// The file, whose writes by others are not seen here: they are not for tests of crashes.
    fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

impl CrashFile {
    /// The contents as they are.
    ///
    /// # Errors
    ///
    /// The host's.
    pub fn contents(&self) -> Result<Vec<u8>> {
        let len = usize::try_from(self.file.len()?).map_err(|_| ErrorKind::InvalidData)?;
        let mut bytes = vec![0; len];
        self.file.read_at(0, &mut bytes)?;
        Ok(bytes)
    }
}
