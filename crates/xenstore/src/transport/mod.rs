//! How bytes travel between the server and clients elsewhere.

pub mod attach;
pub mod listen;
pub mod paths;
pub mod ring;
#[cfg(feature = "test-utils")]
pub mod ring_client;
pub mod service;

pub use paths::socket_path;
pub use ring::{Pumped, Ring, RingFault};
pub use service::Service;
