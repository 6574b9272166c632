//! A disk cut into granules of one size.

use std::ops::Range;

/// The size of a granule: a power of two from 4 KiB to 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granularity(u8);

/// A size that no granule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes are not a granule: a power of two from 4096 to 67108864")]
pub struct BadGranularity(pub u64);

impl Granularity {
    /// Granules of so many bytes.
    ///
    /// # Errors
    ///
    /// [`BadGranularity`] where it is no power of two, or not from 4096 to 67108864.
    pub fn new(bytes: u64) -> Result<Self, BadGranularity> {
        let shift = u8::try_from(bytes.trailing_zeros()).unwrap_or(u8::MAX);
        if bytes.is_power_of_two() && (12..=26).contains(&shift) {
            Ok(Self(shift))
        } else {
            Err(BadGranularity(bytes))
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        1 << self.0
    }

    /// How many granules a disk of so many bytes has; the last one may be cut.
    #[must_use]
    pub fn count(self, disk: u64) -> u64 {
        disk.div_ceil(self.bytes())
    }

    /// The granule that a byte is in.
    pub(crate) fn of(self, offset: u64) -> u64 {
        offset >> self.0
    }

    /// The granules that have a byte of the range.
    pub(crate) fn touched(self, offset: u64, len: u64) -> Range<u64> {
        if len == 0 {
            return 0..0;
        }
        self.of(offset)..self.of(offset.saturating_add(len - 1)).saturating_add(1)
    }

    /// The granules that are wholly in the range, on a disk of `disk` bytes whose last granule may be cut.
    pub(crate) fn within(self, offset: u64, len: u64, disk: u64) -> Range<u64> {
        let end = offset.saturating_add(len);
        let end = if end >= disk {
            self.count(disk)
        } else {
            self.of(end)
        };
        let start = self.count(offset);
        start..end.max(start)
    }

    /// The bytes of some granules, on a disk of `disk` bytes.
    pub(crate) fn bytes_of(self, granules: Range<u64>, disk: u64) -> Range<u64> {
        let at = |granule: u64| granule.saturating_mul(self.bytes()).min(disk);
        at(granules.start)..at(granules.end)
    }
}

impl Default for Granularity {
    /// 64 KiB: what XenServer and libvirt track changes by.
    fn default() -> Self {
        Self(16)
    }
}
