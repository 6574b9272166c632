//! For tests, benchmarks and fuzz targets: packets to send, and a network to send them in. They panic where something goes wrong
//! that has nothing to do with what is tested.

mod netns;
mod packets;

pub use crate::port::{Recorded, Recorder, RecorderHandle};
pub use netns::{in_netns, ip};
pub use packets::{Shape, checksum_of, transport_sum};
