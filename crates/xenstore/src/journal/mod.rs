//! A journal: what keeps a store when its daemon is killed.
//!
//! A folder holds a **checkpoint**, which is the whole state as a [migration stream](crate::state), and a **journal** of what has been
//! changed since. The journal is written before anybody hears that his request was done: see [`Journal::append`]. So
//! whoever was told that a change was made finds it made, at whatever moment the daemon is killed.
//!
//! # What it covers
//!
//! The death of the daemon's process, by whatever signal: the kernel has the bytes by then, so no `fsync` is needed. **Not** the loss of
//! power or a crash of the kernel, unless [`Options::sync`] is set: then the store's domains are gone as well, and a store
//! that speaks of them would be of little use.
//!
//! | kept | not kept |
//! |---|---|
//! | nodes: values, permissions | open transactions: a request in one gets `ENOENT`, as after its end |
//! | domains: introduced, where their rings are, features, quotas, targets, privilege | sockets' connections, with their watches: their clients see them end |
//! | watches of domains that have a ring, since a guest does not know that the daemon has died | events and replies that were not sent |
//! | permissions of the special watches, quotas of the store | counters |
//!
//! A guest whose request was taken out of its ring and not answered when the daemon died gets no answer. What the ring's page
//! offers for that, a reconnection, is the transport's business. Its watches may have missed events: the daemon should send each
//! of them once ([`Server::refire`]), which xenstore's clients expect at any time.
//!
//! # The files
//!
//! All are named by a generation, in decimal.
//!
//! | name | content |
//! |---|---|
//! | `00000003.checkpoint` | a migration stream; behind its `END` 24 bytes: `"cantlexc"`, generation (`u64`), CRC-32 of the stream (`u32`), zero (`u32`) |
//! | `00000003.journal` | 24 bytes: `"cantlexj"`, version 1 (`u32`), zero (`u32`), generation (`u64`); then frames |
//! | `00000004.unfinished` | a checkpoint that is being written; of no meaning |
//! | `lock` | empty; locked by who uses the folder, and free again when that process is gone |
//!
//! A frame has a header of 16 bytes: length of its body, CRC-32 of its body, its number in the file from 0 on, CRC-32 of these twelve
//! bytes (`u32` each, little-endian). Its body are records of the [stream's form](crate::state) in little-endian, without header and `END`:
//!
//! - `NODE_DATA` sets a node; without permissions, it removes it and all below it. The parent is there, or is set before.
//! - `CONNECTION_DATA` and `WATCH_DATA` are a ring's, whose number is its domain's and 1; records of [our own](crate::state::own) take
//!   watches away again.
//! - `DOMAIN_DATA`, `GLOBAL_QUOTA_DATA` and our own for a domain and the server replace what was known; one takes a domain away.
//!
//! A frame holds everything that was changed since the last one, so a transaction is never there in part.
//!
//! # Reading them again
//!
//! The newest checkpoint that is whole counts, and every journal of its generation and later ones, in order. A newest journal that ends
//! within a frame is cut there: that write was never acknowledged. One without a frame that has no checkpoint goes: its compaction did not come
//! about, and the journal before it may have gone on. Anything else that is not as it was written is an error that names the file and
//! the byte, and what an operator can do: no kill makes that, and a store that quietly lacks some of its nodes is worse than
//! one that does not start.
//!
//! # Compaction
//!
//! When the journals have outgrown both the checkpoint and [`Options::compact_at`], the next generation begins: first its journal, which
//! takes all later frames; then, on a thread of its own, its checkpoint, which is written beside and renamed when it is whole; then the older
//! files go. The tree is immutable where it is shared, so what that thread writes is a snapshot that cost nothing. Until the rename,
//! the older checkpoint and both journals say the same.

mod checkpoint;
mod disk;
mod error;
mod frame;
mod recover;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::server::{Checkpoint, Restored, Server};
use checkpoint::Name;
use disk::{Disk, Folder};
pub use error::JournalError;
use recover::{Log, Recovered};

/// How a journal is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Wait for the disk with each frame, so that a loss of power loses nothing either. Every batch of requests then waits
    /// for the disk.
    pub sync: bool,
    /// No compaction before the journals have so many bytes.
    pub compact_at: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: false,
            compact_at: 1024 * 1024,
        }
    }
}

/// A journal that is open.
pub struct Journal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    /// What is appended to; none before the first checkpoint.
    log: Option<Log>,
    /// The newest checkpoint's bytes.
    checkpoint: u64,
    /// Bytes of journals since that checkpoint, without `log`.
    older: u64,
    frame: Vec<u8>,
    broken: bool,
    /// Gives the length of the checkpoint that is being written.
    compaction: Option<JoinHandle<Result<u64, JournalError>>>,
    /// Compaction is done by whoever calls: for tests that count steps.
    inline: bool,
    /// Locked for as long as it is open.
    lock: Option<File>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("dir", &self.dir)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens a folder, which is made where it is missing, and restores what is in it; `None` where nothing is: the first call of
    /// [`append`](Self::append) writes the whole state then.
    ///
    /// # Errors
    ///
    /// [`JournalError`]; nothing was changed.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Option<Restored>), JournalError> {
        let io = |source| JournalError::Io {
            path: dir.to_owned(),
            source,
        };
        // Whoever may read it reads what guests have written.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(io)?;
        let lock = File::create(dir.join("lock")).map_err(io)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::InUse {
                path: dir.to_owned(),
            },
            TryLockError::Error(source) => io(source),
        })?;
        let disk = Arc::new(Folder(dir.to_owned()));
        Self::on(disk, dir, options, false, Some(lock))
    }

    fn on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        inline: bool,
        lock: Option<File>,
    ) -> Result<(Self, Option<Restored>), JournalError> {
        let mut journal = Self {
            disk,
            dir: dir.to_owned(),
            options,
            log: None,
            checkpoint: 0,
            older: 0,
            frame: Vec::new(),
            broken: false,
            compaction: None,
            inline,
            lock,
        };
        let Some(recovered) = recover::recover(&*journal.disk, dir, options.sync)? else {
            return Ok((journal, None));
        };
        let Recovered {
            mut restored,
            log,
            checkpoint,
            older,
        } = recovered;
        restored.server.record(true);
        journal.log = Some(log);
        journal.checkpoint = checkpoint;
        journal.older = older;
        Ok((journal, Some(restored)))
    }

    /// Writes down what was changed on the server since the last call. To be called after requests have been handled and before any of
    /// their answers is sent.
    ///
    /// At the first call on a new folder it writes the whole state, and has the server [record](Server::record) its changes from then on.
    ///
    /// # Errors
    ///
    /// [`JournalError`]. The answers must not be sent then; what this call was about is in the journal as a whole or not at all.
    pub fn append(&mut self, server: &mut Server) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken);
        }
        let Some(log) = &mut self.log else {
            return self.begin(server);
        };
        frame::begin(&mut self.frame);
        if server.take_record(&mut self.frame)? {
            frame::seal(&mut self.frame, log.frames).ok_or(JournalError::Broken)?;
            let written = log.output.append(&self.frame);
            let written = written.and_then(|()| {
                if self.options.sync {
                    log.output.sync()
                } else {
                    Ok(())
                }
            });
            if let Err(source) = written {
                // What was noted is lost for the journal, so it can have no later frame: it would not follow.
                self.broken = true;
                let _ = log.output.cut(log.len);
                return Err(self.failed(source));
            }
            log.len += self.frame.len() as u64;
            log.frames = log.frames.saturating_add(1);
        }
        self.compact_if_large(server);
        Ok(())
    }

    /// Waits until a compaction that is under way has ended.
    pub fn settle(&mut self) {
        if let Some(running) = self.compaction.take() {
            self.compacted(running.join().unwrap_or(Err(JournalError::Broken)));
        }
    }

    fn failed(&self, source: io::Error) -> JournalError {
        JournalError::Io {
            path: self.dir.clone(),
            source,
        }
    }

    /// Writes the first checkpoint and begins its journal.
    fn begin(&mut self, server: &mut Server) -> Result<(), JournalError> {
        server.record(true);
        let generation = 1;
        self.checkpoint = write_checkpoint(
            &*self.disk,
            &self.dir,
            generation,
            &server.checkpoint()?,
            self.options.sync,
        )?;
        let log = Log::create(&*self.disk, generation, self.options.sync);
        self.log = Some(log.map_err(|source| self.failed(source))?);
        Ok(())
    }

    /// Begins the next generation where the journals have become long. That this fails is no harm but in length: it is tried
    /// again later.
    fn compact_if_large(&mut self, server: &Server) {
        if self
            .compaction
            .as_ref()
            .is_some_and(JoinHandle::is_finished)
        {
            self.settle();
        }
        let Some(log) = &self.log else { return };
        let large = self.older + log.len > self.checkpoint.max(self.options.compact_at);
        if !large || self.compaction.is_some() {
            return;
        }
        if let Err(error) = self.compact(server) {
            tracing::warn!(%error, "the journal cannot be compacted");
            // Not at once again.
            self.checkpoint = self
                .checkpoint
                .max(self.options.compact_at)
                .saturating_mul(2);
        }
    }

    fn compact(&mut self, server: &Server) -> Result<(), JournalError> {
        let Some(log) = &self.log else { return Ok(()) };
        let generation = log.generation + 1;
        let snapshot = server.checkpoint()?;
        let next = Log::create(&*self.disk, generation, self.options.sync)
            .map_err(|source| self.failed(source))?;
        self.older += log.len;
        self.log = Some(next);
        let (disk, dir, sync) = (Arc::clone(&self.disk), self.dir.clone(), self.options.sync);
        let write = move || {
            let len = write_checkpoint(&*disk, &dir, generation, &snapshot, sync)?;
            recover::remove_older(&*disk, generation);
            Ok(len)
        };
        if self.inline {
            let result = write();
            self.compacted(result);
            return Ok(());
        }
        let thread = std::thread::Builder::new().name("xenstore-journal".to_owned());
        self.compaction = Some(thread.spawn(write).map_err(|source| self.failed(source))?);
        Ok(())
    }

    fn compacted(&mut self, result: Result<u64, JournalError>) {
        match result {
            Ok(len) => {
                self.checkpoint = len;
                self.older = 0;
            }
            Err(error) => {
                tracing::warn!(%error, "a checkpoint of the journal cannot be written");
                self.checkpoint = self
                    .checkpoint
                    .max(self.options.compact_at)
                    .saturating_mul(2);
            }
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.settle();
        // Closing it would not do while a process that is being started has a copy of the descriptor.
        if let Some(lock) = &self.lock {
            let _ = lock.unlock();
        }
    }
}

/// Writes a checkpoint beside and gives it its name when it is whole; returns its length.
fn write_checkpoint(
    disk: &dyn Disk,
    dir: &Path,
    generation: u64,
    snapshot: &Checkpoint,
    sync: bool,
) -> Result<u64, JournalError> {
    let mut bytes = Vec::new();
    snapshot.write(&mut bytes)?;
    checkpoint::finish(&mut bytes, generation);
    let unfinished = Name::Unfinished(generation).to_string();
    let name = Name::Checkpoint(generation).to_string();
    let write = || {
        let mut output = disk.create(&unfinished)?;
        output.append(&bytes)?;
        if sync {
            output.sync()?;
        }
        drop(output);
        disk.rename(&unfinished, &name)?;
        if sync { disk.sync() } else { Ok(()) }
    };
    write().map_err(|source| JournalError::Io {
        path: dir.join(name),
        source,
    })?;
    Ok(bytes.len() as u64)
}
