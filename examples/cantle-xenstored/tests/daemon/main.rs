//! The daemon as a program: with its clients, its signals, its updates and its ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod crash;
mod live_update;
mod operator;
mod process;
mod pyxs;
mod support;
mod utils;
