//! qcow2 disk images.
mod backing;
mod cache;
mod check;
mod commit;
mod create;
mod exercise;
mod grow;
mod header;
mod image;
mod inflate;
mod map;
mod open;
mod refcounts;
mod shape;
mod tables;
mod write;
pub use backing::{Backing, BackingError, Opener};
pub use check::CheckReport;
pub use create::{CreateError, CreateOptions, Preallocation, create, create_path};
#[cfg(any(test, feature = "test-utils"))]
pub use exercise::exercise;
pub use header::{BackingName, Compression, Header, HeaderError};
pub use image::Qcow2;
pub use open::{OpenError, Options};
#[cfg(test)]
mod tests;
