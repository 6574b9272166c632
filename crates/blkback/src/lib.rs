//! blkback
