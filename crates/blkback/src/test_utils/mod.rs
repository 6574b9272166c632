//! The other side, and a small world around both: for tests, benchmarks, examples and fuzzing.

mod fault;
mod memory;

pub use fault::{Fault, FaultImage, Faults};
pub use memory::{copy_in, copy_out};
