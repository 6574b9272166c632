//! The Xen block backend: a guest's blkfront on one side, a disk image on the other.
//!
//! A [`Backend`] is one virtual disk. It shakes hands over xenstore, takes requests from the shared ring, maps the
//! guest's pages by their grants, lets the [image] read and write straight in them, and answers. It runs on the three
//! platform seams ([`Client`], [`EventChannels`], [`GrantMapper`]), so it is the same in the host's own process, in a sandboxed
//! one and on a Xen dom0. It owns no thread: an embedder polls one descriptor, or lends a thread to [`Backend::run`].
//!
//! What a request passes through, in this order: a queue takes a private copy out of the ring, [`Request::parse`] checks it,
//! maps its pages into an [`image::Io`], and the [`image::BlockImage`] does it.
//!
//! What is not here: KVM, and any knowledge of how the platform does its part. The crate depends on `cantle-abi`,
//! `cantle-evtchn`, `cantle-grant` and `cantle-xenstore`.
//!
//! # A disk, and a guest that writes to it
//!
//! ```
//! # #[cfg(feature = "test-utils")] {
//! use cantle_blkback::image::{RawImage, RawOptions};
//! use cantle_blkback::test_utils::World;
//!
//! let file = tempfile::NamedTempFile::new()?;
//! file.as_file().set_len(1 << 20)?;
//! let image = RawImage::open(file.path(), &RawOptions::default())?;
//!
//! // A store, a guest in this process's memory, and the device's directories: what a toolstack and a VMM would make.
//! let world = World::new();
//! let disk = world.serve(world.backend(Box::new(image))?);
//! let mut front = world.front()?;
//!
//! front.write(8, &[7; 4096])?;
//! front.flush()?;
//! assert_eq!(std::fs::read(file.path())?[8 * 512..][..4096], [7; 4096]);
//! assert_eq!(disk.stats().snapshot().sectors_written, 8);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Client`]: cantle_xenstore::Client
//! [`EventChannels`]: cantle_evtchn::EventChannels
//! [`GrantMapper`]: cantle_grant::GrantMapper

mod backend;
mod connect;
mod control;
mod event;
mod lane;
mod negotiate;
mod options;
mod pages;
mod queue;
mod request;
mod ring;
mod spin;
mod stats;
mod vbd;
mod wakeups;
mod worker;

#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

pub use cantle_image as image;

pub use backend::{Backend, BackendError, Progress};
pub use connect::ConnectError;
pub use control::DiskControl;
pub use options::{BackendOptions, DiskKind, OnError};
pub use request::{
    Command, Indirect, Offered, PagePart, Request, RequestError, answered_operation, status,
};
pub use ring::Protocol;
pub use stats::{Stats, StatsSnapshot};
