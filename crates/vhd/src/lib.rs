//! VHD disk images, as Xen's storage managers, Hyper-V, Virtual PC and QEMU make and read them: fixed, dynamic, and differencing ones
//! over a parent.
//!
//! [`Vhd`] is a [`Format`](cantle_image::Format): tables that say where in which file a disk's bytes are. A
//! [`FormatDisk`](cantle_image::FormatDisk) serves a guest with it; tools use it by itself. Sources: Microsoft's "Virtual Hard Disk Image Format
//! Specification"; for what Xen adds (the hidden mark, the batmap, paths without drives) the images that its tools make.
//!
//! # Promises
//!
//! - **After a crash** of the host, at any moment, the image opens and has all that was flushed. New blocks and their bitmaps are on the
//!   medium before the table names them; a bit of a sector bitmap is set when the sector it shows is on the medium; where the end's footer is
//!   lost, the copy at the start counts.
//! - **An image is not trusted.** No field is used before it is checked; a differencing image opens no file that the caller did not
//!   allow ([`Parents`]); a guest that writes a footer into its disk makes no other image of it ([`OpenError::Ambiguous`]).
//! - **The size** is the one that the image's maker meant ([`SizeRule`]).
//! - **Damage spreads nowhere.** A table that names places outside the file gets no new blocks before [`Vhd::repair`].
//!
//! What is not here: VHDX; images that several programs write at a time; locks against it.
//!
//! # Example
//!
//! ```
//! use cantle_image::Format;
//! use cantle_vhd::{CreateOptions, OpenOptions, ParentDisk, Parents, Vhd};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! // A golden image of 1 GiB, which takes a few KiB.
//! let golden = folder.join("golden.vhd");
//! let disk = Vhd::create_path(&golden, &CreateOptions::dynamic(2 << 20))?;
//! disk.write(4096, &[1; 512])?;
//! disk.flush()?;
//!
//! // A guest's own image over it.
//! let parent = ParentDisk::vhd(&golden, Parents::Refuse)?;
//! let private = folder.join("guest.vhd");
//! let disk = Vhd::create_path(&private, &CreateOptions::differencing(parent))?;
//! disk.write(4608, &[2; 512])?;
//! drop(disk);
//!
//! // Later, with parents from this folder only.
//! let options = OpenOptions {
//!     parents: Parents::InFolder(folder.to_owned()),
//!     ..OpenOptions::default()
//! };
//! let disk = Vhd::open_path(&private, &options)?;
//! let mut bytes = [0; 1024];
//! disk.read(4096, &mut bytes)?;
//! assert_eq!((bytes[0], bytes[512]), (1, 2));
//! assert!(disk.check()?.is_clean());
//!
//! // What the guest wrote is to be in the golden image.
//! let target = Vhd::open_path(&golden, &OpenOptions::default())?;
//! disk.commit(&target, &mut |_| {})?;
//! # Ok(())
//! # }
//! ```

mod bitmap;
mod bytes;
mod check;
mod commit;
mod create;
mod error;
mod find;
mod flush;
mod footer;
mod grow;
mod header;
mod image;
mod info;
mod locator;
mod open;
mod options;
mod parent;
mod state;
mod table;
mod write;

#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

pub use check::{Problem, Report};
pub use error::{CreateError, OpenError, ParentError};
pub use image::Vhd;
pub use info::{Info, ParentInfo};
pub use options::{CreateOptions, Kind, OpenOptions, Parents, SizeRule};
pub use parent::ParentDisk;

#[cfg(test)]
mod tests;
