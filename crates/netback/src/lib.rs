//! The Xen network back end: a guest's netfront on one side, a tap or another [`NetPort`] on the other.
//!
//! A [`Backend`] is one virtual interface. It shakes hands over xenstore, takes packets from the tx rings to the ports and from
//! the ports to the rx rings, and carries their offloads over: blank checksums and large TCP packets stay as they are, as far
//! as the other side can take them. It runs on the three platform seams ([`Client`], [`EventChannels`], [`GrantMapper`]), so it
//! is the same in the host's own process, in a sandboxed one and on a Xen dom0. The first queue has no thread: an embedder polls one
//! descriptor, or lends a thread to [`Backend::run`]; each further queue gets one.
//!
//! A packet from the guest passes, in this order: [`tx::Assembler`] puts it together out of private copies of ring slots and
//! checks the format; a batch takes it out of the guest's pages, small ones by copy, large ones by mapping with only the headers
//! copied; [`cantle_netport::headers::transport`] finds what the offloads need; and [`NetPort::send`] takes the batch. To the guest: a
//! port is read only while the guest has posted pages, so what waits, waits in the port; what is delivered by others (a switch) waits in
//! a bounded arena. Nothing grows here.
//!
//! What is not here: KVM, what packets leave by, and any knowledge of how the platform does its part. The crate depends on `cantle-abi`,
//! `cantle-evtchn`, `cantle-grant`, `cantle-netport` and `cantle-xenstore`.
//!
//! # An interface, and a guest that sends a packet
//!
//! ```
//! # #[cfg(feature = "test-utils")] {
//! use cantle_netback::test_utils::{FrontOptions, Outgoing, World, settle};
//! use cantle_netport::test_utils::Recorder;
//!
//! // A store, a guest in this process's memory, and the device's directories: what a toolstack and a VMM would make.
//! let world = World::new();
//! // A port that remembers; `Tap::open("tap0")?` is the real thing.
//! let (port, wire) = Recorder::new()?;
//! let mut backend = world.backend(Box::new(port))?;
//! let mut front = world.front(&FrontOptions::default());
//!
//! let packet = Outgoing { bytes: &[0x42; 60], ..Outgoing::default() };
//! assert!(front.send(&packet));
//! front.kick();
//! settle(&mut backend);
//!
//! assert_eq!(wire.take_sent()[0].bytes, [0x42; 60]);
//! assert_eq!(backend.stats().tx.counts().packets, 1);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Client`]: cantle_xenstore::Client
//! [`EventChannels`]: cantle_evtchn::EventChannels
//! [`GrantMapper`]: cantle_grant::GrantMapper
//! [`NetPort`]: cantle_netport::NetPort
//! [`NetPort::send`]: cantle_netport::NetPort::send

use cantle_evtchn::Channel;
use cantle_netport::{checksum, headers};

mod backend;
pub mod control;
pub mod credit;
mod device;
mod event;
mod handle;
pub mod multicast;
mod negotiate;
mod options;
mod pair;
mod pass;
mod poller;
mod rx;
mod shared;
mod sink;
mod statics;
mod stats;
mod steer;
pub mod tx;
mod worker;

#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use backend::{Backend, BackendError, Progress};
pub use device::ConnectError;
pub use handle::NetControl;
pub use options::BackendOptions;
pub use stats::{Counts, Direction, Stats};

/// A peer that has closed its end is on its way to close the device: xenbus will tell.
fn notify(channel: &dyn Channel) {
    if let Err(error) = channel.notify() {
        tracing::debug!(port = %channel.port(), %error, "cannot notify");
    }
}
