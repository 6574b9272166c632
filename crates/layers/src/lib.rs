//! Layers over disks: what can be put on any [`Format`](cantle_image::Format), and is one itself.
//!
//! A disk made of a format ([`FormatDisk`](cantle_image::FormatDisk)) goes straight to the file wherever the format's `map` says so, and comes to
//! its `read` and `write` only where that does not. So a layer that still has something to do for a range says that it cannot be written in
//! place, and one that has done it says what the format below says, and costs nothing any more. What was once allowed is taken back by way
//! of [`LiveDisk`]: no layer forgets to, since what takes a mark away needs the disk.
//!
//! | layer | what it is for |
//! | --- | --- |
//! | [`DirtyTracker`] | what was written, by granules: the mechanism of the next two |
//! | [`ChangedBlocks`] | what has changed since a backup, over restarts and crashes |
//! | [`Mirror`] | moves a disk to another place while it is written to |
//! | [`Cache`] | keeps what is read of a golden image on local disk, for all guests of a host |
//! | [`Snapshot`] | a disk as it was at an instant, for a backup, while it goes on |
//! | [`Throttle`] | bytes and requests per second; over any [`Disk`](cantle_image::Disk), not a format |
//!
//! The crate depends on `cantle-image`, and on `cantle-abi` for memory. It knows no ring, no guest and no image format.
//!
//! # Backups
//!
//! ```
//! # use std::sync::Arc;
//! use cantle_image::{Format, FormatDisk, FormatOptions, Geometry, RawFormat};
//! use cantle_layers::{ChangedBlocks, Granularity, Snapshot, anonymous_store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let file = |len| { let file = tempfile::tempfile()?; file.set_len(len)?; std::io::Result::Ok(Arc::new(file)) };
//! let image: Arc<dyn Format> = Arc::new(RawFormat::new(file(1 << 20)?, Geometry::new(2048)));
//! let changed = Arc::new(ChangedBlocks::create(image, Box::new(file(0)?), Granularity::default())?);
//! let disk = FormatDisk::new(changed.clone(), FormatOptions::default())?;
//!
//! // The first backup: everything. The checkpoint first, then the view.
//! let first = changed.checkpoint(&disk)?;
//! let view = Snapshot::start(Arc::new(disk.clone()), anonymous_store(folder.path())?, Granularity::default())?;
//! let mut bytes = vec![0; 1 << 20];
//! view.read(0, &mut bytes)?;
//! drop(view);
//!
//! // The next one: what has changed since, of the view of its own instant.
//! # cantle_image::test_utils::Driven::new(&disk)?.write(300, &[1; 512])?;
//! let second = changed.checkpoint(&disk)?;
//! let view = Snapshot::start(Arc::new(disk), anonymous_store(folder.path())?, Granularity::default())?;
//! for extent in changed.changed_since(first)?.extents() {
//!     let mut bytes = vec![0; usize::try_from(extent.end - extent.start)?];
//!     view.read(extent.start, &mut bytes)?;
//! #   assert_eq!(extent, 131072..196608);
//! }
//! changed.remove(first)?;
//! # let _ = second;
//! # Ok(())
//! # }
//! ```
//!
//! # Storage motion
//!
//! ```
//! # use std::sync::Arc;
//! use cantle_image::{Format, FormatDisk, FormatOptions, Geometry, RawFormat};
//! use cantle_layers::{Granularity, Mirror, MirrorOptions, MirrorState};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let file = |len| { let file = tempfile::tempfile()?; file.set_len(len)?; std::io::Result::Ok(Arc::new(file)) };
//! # let source = Arc::new(RawFormat::new(file(1 << 20)?, Geometry::new(2048)));
//! # let target: Arc<dyn Format> = Arc::new(RawFormat::new(file(1 << 20)?, Geometry::new(2048)));
//! # let state_file = file(0)?;
//! let disk = FormatDisk::new(source, FormatOptions::default())?;
//! let state = MirrorState::create(Box::new(state_file), 1 << 20, Granularity::new(4 << 20)?)?;
//! let options = MirrorOptions { rate: 100 << 20, ..MirrorOptions::default() };
//! let mut mirror = Mirror::start(Arc::new(disk.clone()), Arc::clone(&target), Some(state), options)?;
//! println!("{:?}", mirror.progress());
//! mirror.wait()?;
//! assert!(Arc::ptr_eq(&disk.format(), &target));
//! # Ok(())
//! # }
//! ```
//!
//! # What is written, for a job of one's own
//!
//! ```
//! # use std::sync::Arc;
//! use cantle_image::{FormatDisk, FormatOptions, Geometry, RawFormat};
//! use cantle_layers::{DirtyTracker, Granularity};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let file = tempfile::tempfile()?;
//! # file.set_len(1 << 20)?;
//! # let image = Arc::new(RawFormat::new(Arc::new(file), Geometry::new(2048)));
//! let tracker = Arc::new(DirtyTracker::new(image, Granularity::default(), true));
//! let disk = FormatDisk::new(tracker.clone(), FormatOptions::default())?;
//! let mut at = 0;
//! while let Some(range) = tracker.take(&disk, at, 256 << 10)? {
//!     // Read it: what is written from now on is dirty again.
//!     at = range.end;
//! }
//! assert_eq!(tracker.dirty_bytes(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! # A golden image, and limits
//!
//! ```
//! # use std::sync::Arc;
//! use cantle_image::{Disk, FormatDisk, FormatOptions, RawFormat, RawOptions};
//! use cantle_layers::{Cache, CacheOptions, Limits, Throttle};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (path, caches) = (folder.path().join("golden.img"), folder.path().join("caches"));
//! # std::fs::write(&path, [1; 65536])?;
//! let golden = Arc::new(RawFormat::open(&path, &RawOptions { read_only: true, ..RawOptions::default() })?);
//! let cache = Arc::new(Cache::open(golden, &path, &CacheOptions::new(caches))?);
//! // Above it, a differencing image takes what this guest writes; here it is served as it is.
//! let disk = FormatDisk::new(cache, FormatOptions::default())?;
//! let disk = Throttle::new(disk, Limits { read_bps: 50 << 20, read_iops: 2000, ..Limits::default() });
//! let handle = disk.handle();
//! let queue = disk.open_queue()?;
//! handle.set(Limits { read_bps: 100 << 20, ..handle.limits() });
//! # drop(queue);
//! # Ok(())
//! # }
//! ```

mod bitmap;
mod cache;
mod changed;
mod dirty;
mod granules;
mod live;
mod mirror;
mod sealed;
mod snapshot;
mod throttle;

#[cfg(any(test, feature = "test-utils"))]
pub mod hostile;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

pub use cache::{Cache, CacheOptions, CacheStats};
pub use changed::{ChangedBlocks, ChangedError, Changes, Generation, GenerationId, NotAUuid};
pub use dirty::DirtyTracker;
pub use granules::{BadGranularity, Granularity};
pub use live::LiveDisk;
pub use mirror::{Mirror, MirrorError, MirrorOptions, MirrorState, Progress, Stage, StateError};
pub use sealed::BadHeader;
pub use snapshot::{Snapshot, SnapshotView, anonymous_store};
pub use throttle::{Bucket, Limits, Throttle, ThrottleHandle};
