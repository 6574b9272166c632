//! What a backup asks for.

use std::ops::Range;

use crate::Granularity;
use crate::bitmap::Bitmap;

/// What changed.
#[derive(Clone, Debug)]
pub struct Changes {
    pub(super) bits: Bitmap,
    pub(super) granularity: Granularity,
    pub(super) disk: u64,
    /// Whether everything counts as changed because what did is not known.
    pub all: bool,
}

impl Changes {
    /// The changed parts of the disk in bytes, as large as can be, in order.
    pub fn extents(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.bits
            .runs()
            .map(|run| self.granularity.bytes_of(run, self.disk))
            .filter(|bytes| !bytes.is_empty())
    }

    /// How many bytes they are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents().map(|extent| extent.end - extent.start).sum()
    }
}
