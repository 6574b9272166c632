//! The other side, and a small world around both: for tests, benchmarks, examples and fuzzing.

mod fault_disk;
mod front;
mod memory;
mod timing;
mod transfer;
mod waiting;
mod world;

pub use cantle_image::test_utils::{Fault, FaultImage, Faults};
pub use fault_disk::FaultDisk;
pub use front::{BlkFront, FrontError, FrontOptions, FrontQueue, LentPage, RingSpelling};
pub use memory::{copy_in, copy_out};
pub use transfer::{REQUEST_BYTES, Random, Transfer};
pub use waiting::wait_until;
pub use world::{BACK, FRONT, Served, World};

/// The examples of the README are compiled and, where they can be, run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
