//! Why a journal cannot be used.

use std::io;
use std::path::PathBuf;

use crate::server::{RestoreError, SaveError};

/// Why a journal cannot be opened or written to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A system call failed.
    #[error("cannot use {}", path.display())]
    Io {
        /// On what.
        path: PathBuf,
        /// How.
        #[source]
        source: io::Error,
    },
    /// Another process uses the folder.
    #[error("{} is used by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A journal has bytes in it that nobody has written so. What comes before them is intact.
    #[error(
        "{} is damaged at byte {offset}; to do without what was written from there on, move all files of later generations away \
         and cut it: truncate -s {offset} {}", path.display(), path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        offset: usize,
    },
    /// A checkpoint is not what was written, and there is no older one that would do.
    #[error("{} is damaged, and no older checkpoint is there", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
    },
    /// A file is missing without which those that are there mean nothing.
    #[error(
        "{} is missing; if it cannot be brought back, the folder is of no use: empty it to begin with nothing", path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is whole, but what it says cannot be.
    #[error("{} cannot be made use of", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RestoreError,
    },
    /// The server's state has something in it that the format has no room for.
    #[error("the state cannot be written down")]
    Save(#[from] SaveError),
    /// A write failed before, and what it left could not be taken back: nothing more is written.
    #[error("the journal is broken since a write failed")]
    Broken,
}
