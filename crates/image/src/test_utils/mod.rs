//! For tests of images, of formats and of layers, and of what stands on them.

mod crash;
mod drive;
mod fault;

pub use crash::CrashFile;
pub use drive::Driven;
pub use fault::{Fault, FaultImage, Faults};
