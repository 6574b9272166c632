//! For tests of layers: a disk that remembers as much as it may, and a format that makes room as it is written.

mod eager;
mod sparse;
mod writers;

pub use eager::EagerDisk;
#[cfg(test)]
pub(crate) use eager::contents;
pub use sparse::SparseFormat;
pub use writers::{Writers, moment};
