//! Which way a disk's data goes.

/// A read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}
