//! A server that was saved and restored goes on as the one that was not: random requests of several connections, with a save in
//! their midst, and every byte that either sends compared.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod guest;
mod hostile;
mod speed;
mod twins;
