//! VMDK disk images as a [`Format`](cantle_image::Format): VMware's, by its technical note "Virtual Disk Format 5.0".
//!
//! | kind | read | written | made |
//! |---|---|---|---|
//! | `monolithicSparse` (one file, tables and grains) | yes | yes | yes |
//! | `monolithicFlat` (a descriptor and a raw file) | yes | yes | yes |
//! | `twoGbMaxExtentSparse`, `twoGbMaxExtentFlat`, `custom`, `vmfs` (several files) | yes | yes | no |
//! | `streamOptimized` (compressed) | yes | no | no |
//! | deltas of these, over a [`Parent`] that the caller has opened | yes | yes | no |
//!
//! Others (`vmfsSparse`, `seSparse`, raw devices) are refused by name; so are images with persistent change tracking (version 3) when they are
//! opened for writing, since the tracker would not know.
//!
//! ```
//! use cantle_image::Format;
//! use cantle_vmdk::{CreateKind, Options, Vmdk, create};
//!
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("disk.vmdk");
//! create(&path, 2 << 20, CreateKind::SPARSE)?; // 1 GiB, in sectors
//!
//! let disk = Vmdk::open(&path, &Options::default())?;
//! disk.write(0, &[7; 4096])?;
//! disk.flush()?; // on the medium now
//! assert_eq!(disk.check()?.allocated, 1);
//! drop(disk); // closed: marked as whole
//!
//! let disk = Vmdk::open(&path, &Options::default())?;
//! let mut sector = [0; 512];
//! disk.read(0, &mut sector)?;
//! assert_eq!(sector, [7; 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For a guest, give the [`Vmdk`] to `cantle_image::FormatDisk`.
//!
//! # What is promised
//!
//! A flush that succeeded is on the medium: new grains first, then the tables that name them. After a crash at any moment the tables name
//! only what is there. An image in use says so in its header (`uncleanShutdown`); one that still does when it is opened for writing is checked and
//! repaired ([`Vmdk::repaired`]). The content id changes, and that mark is set, on the medium, before the first write: until then
//! [`map`](cantle_image::Format::map) calls nothing writable, so that no write passes by.
//!
//! A discard punches holes into grains and leaves them where they are: the host has its blocks back, nothing moves, no table changes.
//! (A "zeroed grain" entry, where an image allows them, is read, but not written: the grain's place would be lost to the file.) Memory is
//! bounded: 8 MiB of grain tables, and the grain directories (up to 8 MiB, for 2 TiB in grains of 4 KiB).
//!
//! # What is hostile
//!
//! The image. Directories and tables must be in the file and apart from each other, or it is refused; an entry that names a place
//! beyond the end or within the metadata is an error where it is used, and no write ever goes there. A descriptor has at most 256 KiB and names
//! files in its own folder only, by plain names, never through links ([`Options::any_extent`] is for one's own). Two entries that name one
//! grain are found by [`Vmdk::check`] alone; such an image shows a guest its own bytes in two places.
//! What a guest writes into a flat extent is never looked at.
//!
//! # Why not a library
//!
//! `imago` 0.2.6, which serves for qcow2, has of VMDK only flat extents, and neither creates nor marks them. Sparse images, which are what people
//! have, it refuses.
//!
//! # Limits
//!
//! Sparse images do not grow. The cylinders in a descriptor's data base stay as they were when a flat one does.

mod create;
pub mod descriptor;
mod error;
mod lock;
mod open;
mod parent;
mod part;
mod punch;
mod report;
mod sparse;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
#[cfg(test)]
mod tests;
mod vmdk;

pub use create::{CreateError, CreateKind, create, create_sparse_on};
pub use descriptor::{Descriptor, DescriptorError, ExtentLine};
pub use error::OpenError;
pub use open::Options;
pub use parent::Parent;
pub use report::Report;
pub use sparse::header::HeaderError;
pub use sparse::layout::LayoutError;
pub use vmdk::Vmdk;
