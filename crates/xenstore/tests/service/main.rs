//! The service behind a Unix socket, with clients that speak bytes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod clients;
mod fair;
mod hand_over;
mod hook;
mod listen;
mod raw;
mod rings;
