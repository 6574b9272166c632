//! The disk below, where there is one.

use std::fmt;
use std::io::Result;
use std::sync::Arc;

use cantle_image::Format;

/// The disk that a delta image (a "child", a "redo log") is a delta to. Whoever opens the image finds it: an image's own hint is the
/// word of a stranger.
#[derive(Clone)]
pub struct Parent {
    /// The disk. It is only read, and must not change.
    pub format: Arc<dyn Format>,
    /// Its content id, which the child must name; `None` where it has none (any parent of another format).
    pub cid: Option<u32>,
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parent")
            .field("geometry", &self.format.geometry())
            .field("cid", &self.cid)
            .finish()
    }
}

/// What is below an extent: the parent, from the extent's place on the disk on.
#[derive(Clone, Copy)]
pub(crate) struct Under<'a> {
    pub(crate) parent: Option<&'a Parent>,
    /// The extent's first byte on the disk.
    pub(crate) base: u64,
}

impl Under<'_> {
    pub(crate) fn some(self) -> Option<Self> {
        self.parent.is_some().then_some(self)
    }

    /// Reads what is below the byte `at` of the extent; zeroes beyond the parent's end.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let at = self.base + at;
        let there = self.parent.map_or(0, |parent| {
            parent.format.geometry().bytes().saturating_sub(at)
        });
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(into.len());
        let (data, beyond) = into.split_at_mut(there);
        beyond.fill(0);
        match self.parent {
            Some(parent) if !data.is_empty() => parent.format.read(at, data),
            _ => Ok(()),
        }
    }
}
