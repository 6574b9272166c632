//! The program as its users see it, beside `qemu-img`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod chains;
mod checks;
mod converts;
mod crashes;
mod hostile;
mod small;
mod tool;
mod wrong;
