//! What an operator asks of the server, and what it answers, byte by byte.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;
mod figures;
mod floods;
mod host;
mod log;
mod quotas;
mod support;
mod tree;
