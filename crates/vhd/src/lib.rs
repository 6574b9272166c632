//! VHD disk images: fixed, dynamic, differencing.

mod bitmap;
mod bytes;
mod check;
mod commit;
mod create;
mod error;
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
