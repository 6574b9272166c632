//! VMDK disk images: monolithic sparse and flat.

mod create;
pub mod descriptor;
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
pub use open::{OpenError, Options};
pub use parent::Parent;
pub use report::Report;
pub use sparse::header::HeaderError;
pub use sparse::layout::LayoutError;
pub use vmdk::Vmdk;
