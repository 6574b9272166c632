//! How bytes travel between the server and clients elsewhere.

pub mod attach;
pub mod ring;
#[cfg(feature = "test-utils")]
pub mod ring_client;

pub use ring::{Pumped, Ring, RingFault};
