//! Disks as people name them: a file in a format, and layers over it, opened as one [`Disk`](cantle_image::Disk).
//!
//! A [`DiskSpec`] says what is wanted; [`open`] makes it, and [`OpenDisk`] is the disk with the handles of its layers. The formats and layers
//! are crates of their own: whoever needs one of them needs not this one.
//!
//! A format is never guessed for a guest: a raw disk whose guest writes another format's header into it stays raw. [`probe`] is for
//! tools that show what an image looks like.
//!
//! ```
//! use cantle_disk::{CreateSpec, DiskSpec, ImageFormat, create, open};
//! use cantle_image::Disk;
//!
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("disk.qcow2");
//! create(&path, &CreateSpec::new(ImageFormat::Qcow2, 1 << 30))?;
//!
//! let disk = open(&DiskSpec::new(&path, ImageFormat::Qcow2))?;
//! assert_eq!(disk.disk().geometry().bytes(), 1 << 30);
//! assert!(open(&DiskSpec::new(&path, ImageFormat::Qcow2)).is_err(), "in use");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod create;
mod error;
mod image_format;
mod limits;
mod lock;
mod open;
mod spec;

#[cfg(test)]
mod tests;

pub use create::{CreateSpec, create, create_for};
pub use error::DiskError;
pub use image_format::{ImageFormat, UnknownFormat, probe};
pub use limits::{BadLimit, parse_limits, set_limit};
pub use lock::ImageLock;
pub use open::{OpenDisk, open, open_format, overlay};
pub use spec::{DiskSpec, Overlay, Parents};
