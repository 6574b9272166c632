//! Disk images that work by completion, straight from and into a guest's pages.
//!
//! A queue of requests meets a disk at [`BlockImage`]: requests go in, one submission sets them to work, completions come out, and
//! each [`Io`] owns the memory it is about. A [`Disk`] gives such a queue to every thread that asks. Three kinds are here: [`RawDisk`]
//! (a file or block device, by io_uring), [`NullDisk`] (which forgets), and [`FormatDisk`], which makes a disk of any [`Format`]: tables
//! that say where on which file a disk's bytes lie. The formats themselves (VHD, qcow2, VMDK) and the layers over disks (cache,
//! mirror, throttle …) are crates of their own, and so can be anybody else's.
//!
//! What is not here: rings, guests, event channels, xenstore. The crate depends on `cantle-abi`, and on `cantle-grant` for the pages
//! that guests lend.

mod block_image;
mod cache_mode;
mod disk;
mod engine;
mod finished;
pub mod format;
mod geometry;
mod io;
mod null;
mod raw;
mod storage;
mod uring;

#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

pub use block_image::{BlockImage, BufferId, Completion, ImageError};
pub use cache_mode::{CacheMode, Durability, UnknownCacheMode};
pub use disk::Disk;
pub use engine::{FormatDisk, FormatOptions};
pub use finished::Finished;
pub use format::{Extent, Format, Mapped};
pub use geometry::{Geometry, SECTOR_SIZE};
pub use io::{Io, IoOp, OutsidePages, Pages, Segment};
pub use null::{NullDisk, NullImage};
pub use raw::{Caching, OpenError, RawDisk, RawFormat, RawImage, RawOptions};
pub use storage::Storage;
