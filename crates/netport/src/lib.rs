//! What a network interface's packets leave and come in by: the seam [`NetPort`] between a network back end and a tap, a packet
//! socket, a program or a switch, and these ports themselves.
//!
//! A back end gives a port batches of [`Frame`]s, whose bytes may lie in a guest's granted pages ([`Part`]), with their
//! [`Offload`] metadata: a blank checksum or a large TCP packet stays as it is for as long as the other side can take it. A port that has a
//! descriptor is read by the back end when there is room; one that has none (a switch's) pushes what it has to a
//! [`FrameSink`]. A [`NetDevice`] opens as many ports as the interface has queues.
//!
//! What every port and back end needs of packets is here as well: [`headers`] finds a transport header in hostile bytes,
//! [`checksum`] completes what was left blank, [`segment`] cuts up what its receiver cannot take whole, and [`vnet`] is the form in which Linux
//! passes all that with a packet.
//!
//! The crate knows no rings, no grants, no event channels and no xenstore. It depends on `cantle-abi` only, for memory that is
//! shared.

pub mod checksum;
pub mod headers;
mod offload;
mod parts;
pub mod port;
mod recycle;
pub mod segment;
pub mod vnet;

#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use offload::{Checksum, Gso, GsoKind, Offload, Offloads};
pub use parts::{Part, PartMut};
pub use port::{
    Capture, CaptureDevice, CaptureFile, CaptureOptions, Direction, Frame, FrameSink, Interface,
    InterfaceError, NetDevice, NetPort, NullPort, PacketDevice, PacketError, PacketPort,
    PasstDevice, PasstError, PasstOptions, PasstPort, Received, StreamPort, Tap, TapDevice,
    TapError,
};
pub use recycle::recycle;
