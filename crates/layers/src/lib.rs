//! Layers over disks: cache, mirror, snapshot, changed blocks, throttle.

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
