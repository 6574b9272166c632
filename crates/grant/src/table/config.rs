//! How large a table is, and what it may be.

/// The most frames that any table may have.
pub(super) const MAX_FRAMES: u32 = 4096;
/// Handles in one frame of `max_maptrack_frames`, as in Xen.
pub(crate) const HANDLES_PER_FRAME: u32 = 512;

/// How large a table is and may become, and what it offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// Frames (of 512 entries, of 256 with version 2) that it begins with.
    pub initial_frames: u32,
    /// Frames that it may grow to; at most 4096.
    pub max_frames: u32,
    /// The highest version that the guest may choose, 1 or 2 (Xen's `gnttab=max-ver`). Version 2 is a source of advisories, and no
    /// guest needs it below 16 TiB of memory.
    pub max_version: u32,
    /// How many pages of others the guest itself may have mapped at a time, in units of 512; at most 4096. None of that is
    /// allocated before it is used.
    pub max_maptrack_frames: u32,
}

/// One frame, growing to 64, and 1024 frames for mappings, as Xen's defaults are; version 1.
impl Default for TableConfig {
    fn default() -> Self {
        Self {
            initial_frames: 1,
            max_frames: 64,
            max_version: 1,
            max_maptrack_frames: 1024,
        }
    }
}

impl TableConfig {
    /// Pages for status that a table of this configuration needs: none for version 1.
    #[must_use]
    pub fn status_frames(&self) -> u32 {
        match self.max_version {
            2 => status_frames(self.max_frames),
            _ => 0,
        }
    }

    pub(super) fn check(self) -> Result<(), TableError> {
        if self.initial_frames == 0
            || self.max_frames > MAX_FRAMES
            || self.initial_frames > self.max_frames
        {
            return Err(TableError::Frames(self));
        }
        if self.max_maptrack_frames > MAX_FRAMES {
            return Err(TableError::Maptrack(self.max_maptrack_frames));
        }
        match self.max_version {
            1 | 2 => Ok(()),
            version => Err(TableError::Version(version)),
        }
    }
}

/// Status frames that go with frames of entries.
pub(super) fn status_frames(frames: u32) -> u32 {
    use cantle_abi::grant_table::{GRANT_ENTRIES_PER_FRAME_V2, GRANT_STATUS_PER_FRAME};
    frames.div_ceil(GRANT_STATUS_PER_FRAME / GRANT_ENTRIES_PER_FRAME_V2)
}

/// Why a table cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No frames, more than 4096, or more to begin with than at most.
    #[error("a table cannot begin with {} of {} frames", .0.initial_frames, .0.max_frames)]
    Frames(TableConfig),
    /// More than 4096 frames for mappings.
    #[error("{0} frames are too many for mappings")]
    Maptrack(u32),
    /// Neither version 1 nor 2.
    #[error("there is no version {0}")]
    Version(u32),
    /// The memory has fewer bytes than the table may grow to.
    #[error("{0} bytes are too few for the table's entries")]
    TooSmall(usize),
    /// The memory for status has fewer bytes than version 2 needs.
    #[error("{0} bytes are too few for the entries' status")]
    StatusTooSmall(usize),
}
