//! A learning Ethernet switch within a process, for virtual interfaces of one machine.
//!
//! A [`Switch`] has [ports](SwitchPort). Each is a [`NetDevice`]: a back end opens a [`NetPort`] for each of its queues,
//! sends by it, and says once where frames to it go, its [`FrameSink`]. There is no thread and no queue in between:
//! who sends a batch carries it to the receivers' sinks, frames grouped by receiver, and their parts
//! as they came; so a receiver copies once, from the sender's granted page to its own guest's. Offload metadata stays with
//! the frame: 64 KiB of segmentation with a blank checksum cross whole. **A sink must take every offload**; what its guest cannot take, it
//! completes or cuts up itself.
//!
//! Ports that are read, like a tap, come in by [`Switch::add_uplink`], which has a thread for each.
//!
//! What the switch does: learning with aging and bounds, static addresses, [VLANs](Vlans) with tags put on and taken off, isolated
//! ports, [limits](Limits) on what goes to many, [spoof filters](SpoofFilter), [mirror ports](Mirror), [counters](Counters). All of it may be
//! changed while frames pass.
//!
//! # Threads
//!
//! Frames are delivered with no lock held but the receiver's, for reading, which only [a change of that sink](SwitchPort::set_sink) waits for.
//! So two ports that send to each other do not wait for each other, and a sink that was taken away is not called any more.
//! A sink must not send by the switch from within [`FrameSink::deliver`], nor set sinks.
//!
//! The crate knows no rings, no grants and no xenstore. It depends on `cantle-netport` only.
//!
//! # Two ports
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use cantle_netport::{Frame, FrameSink, NetDevice, Offload, Part};
//! use cantle_switch::{PortOptions, Switch, SwitchOptions};
//!
//! /// Remembers how long the frames were that came.
//! #[derive(Default)]
//! struct Lengths(Mutex<Vec<usize>>);
//!
//! impl FrameSink for Lengths {
//!     fn deliver(&self, batch: &mut [Frame<'_>]) {
//!         for frame in batch {
//!             self.0.lock().unwrap().push(frame.len);
//!             frame.taken = true;
//!         }
//!     }
//! }
//!
//! let switch = Switch::new(SwitchOptions::default());
//! let alice = switch.add_port(PortOptions::named("alice"))?;
//! let bob = switch.add_port(PortOptions::named("bob"))?;
//! let heard = Arc::new(Lengths::default());
//! bob.set_sink(Some(heard.clone()));
//!
//! // To everybody, from alice.
//! let mut bytes = vec![0xff; 60];
//! bytes[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 1]);
//! let parts = [Part::from(&bytes[..])];
//! let frame = Frame { parts: &parts, len: 60, offload: Offload::default(), taken: false };
//! alice.open_queue()?.send(&mut [frame]);
//!
//! assert_eq!(*heard.0.lock().unwrap(), [60]);
//! assert_eq!(switch.addresses()[0].port, alice.id());
//! assert_eq!(bob.counters().tx_packets, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`NetDevice`]: cantle_netport::NetDevice
//! [`NetPort`]: cantle_netport::NetPort
//! [`FrameSink`]: cantle_netport::FrameSink
//! [`FrameSink::deliver`]: cantle_netport::FrameSink::deliver

#![forbid(unsafe_code)]

mod clock;
mod counters;
mod device;
mod filter;
mod forward;
mod header;
mod limit;
mod mac;
mod options;
mod port;
mod queue;
mod switch;
mod table;
mod topology;
mod uplink;
mod vlan;

#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use clock::{Clock, MonotonicClock};
pub use counters::{Counters, DropReason};
pub use device::SwitchPort;
pub use filter::{BadPrefix, IpPrefix, SpoofFilter};
pub use limit::Limit;
pub use mac::{BadMacAddr, MacAddr};
pub use options::{Limits, Mirror, PortOptions, SwitchOptions};
pub use port::PortId;
pub use switch::{PortInfo, Switch, SwitchError};
pub use table::Address;
pub use uplink::{Uplink, UplinkError};
pub use vlan::{VlanId, VlanSet, Vlans};
