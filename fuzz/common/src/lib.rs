//! What the fuzz targets do with their input. `fuzz/fuzz_targets` hands each of them to libFuzzer; `tests/smoke.rs` runs each
//! for a second on made-up inputs, with the ordinary compiler.
//!
//! An input is a list of actions of a hostile party ([`input`]): calls, and writes to the memory that it shares with the host. The
//! targets assert what holds whatever it does. The crate depends on all of the project's crates, with their test front ends.
//!
//! ```
//! fuzz_common::targets::ring_back::run(b"\x07 any bytes do");
//! ```

pub mod input;
pub mod scribble;
pub mod targets;
