//! The other side, and a small world around both: for tests, benchmarks, examples and fuzzing.

mod front;
mod memory;
mod transfer;
mod world;

pub use cantle_image::test_utils::{Fault, FaultImage, Faults};
pub use front::{BlkFront, FrontError, LentPage};
pub use memory::{copy_in, copy_out};
pub use transfer::{REQUEST_BYTES, Random, Transfer};
pub use world::{BACK, FRONT, Served, World};
