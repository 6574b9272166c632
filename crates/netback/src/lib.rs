//! The Xen network backend.

mod backend;
mod checksum;
mod device;
pub mod headers;
mod offload;
mod parts;
mod poller;
pub mod port;
mod recycle;
mod rx;
mod stats;
pub mod tx;
pub mod vnet;

#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use backend::{Backend, BackendError, Progress};
pub use device::ConnectError;
pub use offload::{Checksum, Gso, GsoKind, Offload, Offloads};
pub use parts::{Part, PartMut};
pub use port::{NetPort, NullPort, Tap, TapError};
pub use stats::{Counts, Direction, Stats};
