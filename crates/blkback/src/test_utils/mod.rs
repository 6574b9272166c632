//! The other side, and a small world around both: for tests, benchmarks, examples and fuzzing.

mod fault;
mod front;
mod memory;
mod transfer;
mod world;

pub use fault::{Fault, FaultImage, Faults};
pub use front::{BlkFront, FrontError, LentPage};
pub use memory::{copy_in, copy_out};
pub use transfer::{REQUEST_BYTES, Random, Transfer};
pub use world::{BACK, FRONT, Served, World};
