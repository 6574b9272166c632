//! From the files in a folder to the server that they describe.

use std::io;
use std::path::Path;

use super::checkpoint::{self, Name};
use super::disk::{Disk, Output};
use super::error::JournalError;
use super::frame::{self, FILE_HEADER, Frames};
use crate::server::{Restored, Server};

/// The journal's file that is being appended to.
pub(super) struct Log {
    pub(super) output: Box<dyn Output>,
    pub(super) generation: u64,
    /// The file's length, all of it whole frames.
    pub(super) len: u64,
    /// How many frames are in it.
    pub(super) frames: u32,
}

impl Log {
    /// A new file. With `sync`, its name survives a loss of power before anything is in it that has been acknowledged.
    ///
    /// Where that fails, there is none, as far as possible; a file without a frame is in nobody's way.
    pub(super) fn create(disk: &dyn Disk, generation: u64, sync: bool) -> io::Result<Self> {
        let name = Name::Journal(generation).to_string();
        let mut output = disk.create(&name)?;
        let header = output.append(&frame::file_header(generation));
        let named = header.and_then(|()| if sync { disk.sync() } else { Ok(()) });
        if let Err(error) = named {
            // The older journal goes on.
            let _ = disk.remove(&name);
            return Err(error);
        }
        Ok(Self {
            output,
            generation,
            len: FILE_HEADER as u64,
            frames: 0,
        })
    }
}

/// What a folder held.
pub(super) struct Recovered {
    pub(super) restored: Restored,
    pub(super) log: Log,
    /// The length of the checkpoint, in bytes.
    pub(super) checkpoint: u64,
    /// The length of the journals since, without the one in `log`.
    pub(super) older: u64,
}

/// Reads a folder: the newest checkpoint that is whole, and all journals since. `None` where there is nothing.
///
/// Nothing is changed but that the newest journal loses what is behind its last whole frame, and that files go which are
/// older than the checkpoint, were never finished, or begun for a generation that never was.
pub(super) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    sync: bool,
) -> Result<Option<Recovered>, JournalError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        |source| JournalError::Io { path, source }
    };
    let mut names: Vec<Name> = disk
        .names()
        .map_err(io(dir))?
        .iter()
        .filter_map(|name| Name::parse(name))
        .collect();
    names.sort_unstable();
    let Some((mut restored, generation, len)) = newest_checkpoint(disk, dir, &names)? else {
        return Ok(None);
    };
    let newest = names
        .iter()
        .filter(|name| matches!(name, Name::Journal(_)))
        .map(|name| name.generation())
        .max()
        .filter(|newest| *newest >= generation)
        .map(|newest| newest_with_frames(disk, dir, generation, newest))
        .transpose()?;
    let log = match newest {
        None => Log::create(disk, generation, sync).map_err(io(dir))?,
        Some(newest) => {
            for older in generation..newest {
                replay(disk, dir, older, &mut restored.server, false)?;
            }
            replay(disk, dir, newest, &mut restored.server, true)?
                .map_or_else(|| Log::create(disk, newest, sync), Ok)
                .map_err(io(dir))?
        }
    };
    restored.connections = restored.server.redone();
    let older = names.iter().filter(
        |name| matches!(name, Name::Journal(older) if (generation..log.generation).contains(older)),
    );
    let mut bytes = 0;
    for name in older {
        bytes += disk.read(&name.to_string()).map_err(io(dir))?.len() as u64;
    }
    if sync {
        // What was just renamed is to be there still when the older ones are gone.
        disk.sync().map_err(io(dir))?;
    }
    remove_older(disk, generation);
    Ok(Some(Recovered {
        restored,
        log,
        checkpoint: len,
        older: bytes,
    }))
}

/// The newest journal, without those that have no frame and no checkpoint: they were begun for a compaction that did not come about, and the one
/// before may have gone on, up to a frame that is not whole.
fn newest_with_frames(
    disk: &dyn Disk,
    dir: &Path,
    generation: u64,
    mut newest: u64,
) -> Result<u64, JournalError> {
    while newest > generation {
        let name = Name::Journal(newest).to_string();
        let path = dir.join(&name);
        let io = |source| JournalError::Io { path, source };
        let file = match disk.read(&name) {
            // Told of by whoever replays it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            file => file.map_err(io.clone())?,
        };
        let frames = Frames::parse(&file, newest);
        if frames.corrupt.is_some() || !frames.bodies.is_empty() {
            break;
        }
        disk.remove(&name).map_err(io)?;
        newest -= 1;
    }
    Ok(newest)
}

/// Removes files that are older than a checkpoint, and beginnings of others. That it fails harms nobody: they are in nobody's way.
pub(super) fn remove_older(disk: &dyn Disk, generation: u64) {
    for name in disk.names().unwrap_or_default() {
        let old = match Name::parse(&name) {
            Some(Name::Unfinished(_)) => true,
            Some(found) => found.generation() < generation,
            None => false,
        };
        if old && let Err(error) = disk.remove(&name) {
            tracing::warn!(name, %error, "an old file of the journal cannot be removed");
        }
    }
}

/// The newest checkpoint that is whole, restored; with its generation and length.
fn newest_checkpoint(
    disk: &dyn Disk,
    dir: &Path,
    names: &[Name],
) -> Result<Option<(Restored, u64, u64)>, JournalError> {
    let mut damaged = None;
    for name in names.iter().rev() {
        let Name::Checkpoint(generation) = *name else {
            continue;
        };
        let path = dir.join(name.to_string());
        let file = disk
            .read(&name.to_string())
            .map_err(|source| JournalError::Io {
                path: path.clone(),
                source,
            })?;
        let Some(stream) = checkpoint::open(&file, generation) else {
            tracing::error!(path = %path.display(), "a checkpoint is damaged");
            damaged.get_or_insert(path);
            continue;
        };
        let restored =
            Server::restore(stream).map_err(|source| JournalError::Content { path, source })?;
        return Ok(Some((restored, generation, file.len() as u64)));
    }
    if let Some(path) = damaged {
        return Err(JournalError::Checkpoint { path });
    }
    // A journal is not begun before its checkpoint is there.
    match names.iter().find(|name| matches!(name, Name::Journal(_))) {
        Some(name) => Err(JournalError::Missing {
            path: dir.join(Name::Checkpoint(name.generation()).to_string()),
        }),
        None => Ok(None),
    }
}

/// Does again what a journal says. The newest may end within a frame, which is cut off; it is returned for more to be
/// appended, unless not even its header was whole.
fn replay(
    disk: &dyn Disk,
    dir: &Path,
    generation: u64,
    server: &mut Server,
    newest: bool,
) -> Result<Option<Log>, JournalError> {
    let name = Name::Journal(generation).to_string();
    let path = dir.join(&name);
    let io = |source: io::Error| JournalError::Io {
        path: path.clone(),
        source,
    };
    let file = match disk.read(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(JournalError::Missing { path });
        }
        file => file.map_err(io)?,
    };
    let frames = Frames::parse(&file, generation);
    let damage = frames
        .corrupt
        .or((!newest && frames.whole < file.len()).then_some(frames.whole));
    if let Some(offset) = damage {
        return Err(JournalError::Damaged { path, offset });
    }
    for (at, body) in &frames.bodies {
        server
            .redo(body, *at)
            .map_err(|source| JournalError::Content {
                path: path.clone(),
                source,
            })?;
    }
    if !newest || frames.whole < FILE_HEADER {
        return Ok(None);
    }
    let len = frames.whole as u64;
    Ok(Some(Log {
        output: disk.open(&name, len).map_err(io)?,
        generation,
        len,
        frames: u32::try_from(frames.bodies.len()).unwrap_or(u32::MAX),
    }))
}
