//! qcow2 disk images, as a [`Format`](cantle_image::Format): QEMU's format with backing files, opened, made, grown, checked and repaired.
//!
//! | | |
//! | --- | --- |
//! | served | versions 2 and 3; clusters of 512 bytes to 2 MiB; counts of 1 to 64 bits; zero clusters; compressed clusters (deflate, Zstandard) read, and written anew when written to; images with internal snapshots, which keep what they hold; backing files, as any `Format` |
//! | repaired when opened for writing | an image that was not closed (dirty bit: QEMU's lazy refcounts) |
//! | only read | an image marked corrupt |
//! | refused, by name | encryption, extended L2 entries (subclusters), external data files, unknown incompatible features |
//!
//! ```
//! use std::sync::Arc;
//!
//! use cantle_image::Format;
//! use cantle_qcow2::{CreateOptions, Options, Qcow2, create_path};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("disk.qcow2");
//! create_path(&path, &CreateOptions::new(1 << 30))?;
//!
//! // A `FormatDisk` of it serves guests.
//! let image = Arc::new(Qcow2::open_path(&path, &Options::default())?);
//! image.write(4096, &[7; 512])?;
//! image.flush()?;
//!
//! let mut sector = [0; 512];
//! image.read(4096, &mut sector)?;
//! assert_eq!(sector, [7; 512]);
//! assert_eq!(image.check(false)?.errors, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # What an image may do
//!
//! An image is as hostile as a guest. Its backing file's name is followed only where [`Backing`] says so, its format is never guessed, and
//! a chain has no circle and an end. Every offset is checked before use: what would read or write the image's own tables as data is an error,
//! and a table that its counts say is free is not given out. Memory is bounded by [`Options::cache`], the L1 table (32 MiB at most, as
//! in QEMU, and not more than the file has) and the refcount table (8 MiB).
//!
//! # What a crash may do
//!
//! Lose what was not flushed, and space. The order of writes that makes it so is in `commit.rs`: data and higher counts, then where
//! the counts are, then what points to data, then lower counts, and a sync between each two. A cluster that is given back is not given
//! out again before nothing on the medium points to it. A [`flush`](cantle_image::Format::flush) costs one sync where nothing
//! but data changed, two where clusters were added, rarely three.
//!
//! # Why not imago
//!
//! `imago` (0.2.6 was looked at) is a well-kept library, and would have saved this crate. It cannot keep the promise that a disk here
//! makes, and a [`Storage`](cantle_image::Storage) around it cannot keep it in its place:
//!
//! - No sync ever separates counts, tables and data; they are ordered only as they are issued. A wrapper could add syncs, had the order been
//!   right: but the entry of the L1 table is written at once, before the count of the L2 table that it points to. A program that is
//!   killed after three writes leaves an image in which `qemu-img check` finds six errors, with no crash of the host at all.
//! - A cluster that is given back can be given out again at once, while the medium still has a pointer to it: after a crash, one place of the
//!   disk shows another's data. That is inside its allocator, where a wrapper does not reach.
//! - It does not look at the encryption method, so an encrypted image is served as its ciphertext. An image with features that it does
//!   not know is refused, but its header may have been written by then. Data that point to tables are taken for data.
//! - Zstandard clusters, the dirty bit, checking and repairing would have been our own in any case, and they need
//!   all the same tables.
//!
//! The crate depends on `cantle-image`, and knows nothing of rings or guests.

#![forbid(unsafe_code)]

mod backing;
mod cache;
mod check;
mod commit;
mod counts;
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
