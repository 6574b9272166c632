//! What a disk promises about the host's caches.

use std::fmt;
use std::str::FromStr;

use crate::Caching;

/// How a disk uses the host's page cache and what a completed request means; the names and meanings are QEMU's and libvirt's.
///
/// | mode | reads and writes | a write that completed | a flush that completed |
/// |---|---|---|---|
/// | `writeback` | through the page cache | is in the host's memory: the program may die, the host may not | all that completed before is on the medium |
/// | `none` | past the page cache (`O_DIRECT`) | is where the device put it, its cache included | all that completed before is on the medium |
/// | `writethrough` | through the page cache | is on the medium | has nothing left to do |
/// | `unsafe` | through the page cache | is in the host's memory | promises nothing: for disks that are thrown away |
///
/// For a format other than raw, "is in the host's memory" includes this program's: tables of blocks that are new since the last flush
/// are written within a second or at the next flush, so a program that is killed loses such blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Through the page cache; flushes reach the medium.
    #[default]
    Writeback,
    /// Past the page cache; flushes reach the medium.
    None,
    /// Through the page cache; every write reaches the medium before it is done.
    Writethrough,
    /// Through the page cache; flushes do nothing.
    Unsafe,
}

/// When what is written has to be on the medium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is flushed.
    #[default]
    Flush,
    /// Before the write is done.
    Write,
    /// Never.
    Never,
}

impl CacheMode {
    /// All of them, in the order of their documentation.
    pub const ALL: [Self; 4] = [
        Self::Writeback,
        Self::None,
        Self::Writethrough,
        Self::Unsafe,
    ];

    /// The mode's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Writeback => "writeback",
            Self::None => "none",
            Self::Writethrough => "writethrough",
            Self::Unsafe => "unsafe",
        }
    }

    /// How it uses the page cache. `none` is strict: where `O_DIRECT` does not work, the disk does not open.
    #[must_use]
    pub fn caching(self) -> Caching {
        match self {
            Self::None => Caching::Direct,
            Self::Writeback | Self::Writethrough | Self::Unsafe => Caching::Buffered,
        }
    }

    /// When its writes have to be on the medium.
    #[must_use]
    pub fn durability(self) -> Durability {
        match self {
            Self::Writeback | Self::None => Durability::Flush,
            Self::Writethrough => Durability::Write,
            Self::Unsafe => Durability::Never,
        }
    }
}

impl fmt::Display for CacheMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no [`CacheMode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cache mode; writeback, none, writethrough and unsafe are")]
pub struct UnknownCacheMode(pub String);

impl FromStr for CacheMode {
    type Err = UnknownCacheMode;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == word)
            .ok_or_else(|| UnknownCacheMode(word.to_owned()))
    }
}
