//! Xen's event channels: the host side.
//!
//! A [`Hub`] knows all domains of a host. A [`GuestDomain`] is a virtual machine: it makes Xen's event channel calls, and its
//! events are bits in its own memory and an [`Upcall`]. A [`SystemDomain`] is a part of the host that serves guests: its
//! ends are eventfds, behind the two traits that a back end runs on, [`EventChannels`] and [`Channel`].
//!
//! Both interfaces are here: 2-level (up to 4096 ports a guest) and FIFO (up to 131,071, with priorities); the guest chooses, by
//! [`GuestDomain::init_control`]. What is not: KVM, hypercall numbers, grants, xenstore.
//! The crate depends on `cantle-abi` and on nothing else of this project.
//!
//! # A signal each way
//!
//! ```
//! use cantle_abi::{DomId, VcpuId, ring::HeapPages};
//! use cantle_evtchn::{EventChannels, GuestConfig, Hub};
//! use std::sync::Arc;
//!
//! let hub = Hub::new();
//! let config = GuestConfig { vcpus: 1, max_ports: 4096 };
//! let guest = hub.add_guest(DomId(1), config, Arc::new(HeapPages::new(1)), Arc::new(()))?;
//! let backend = hub.add_system(DomId(0))?;
//!
//! // The guest leaves a port unbound for domain 0 and tells it by xenstore; domain 0 connects.
//! let port = guest.alloc_unbound(DomId::SELF, DomId(0))?;
//! let channel = backend.bind_interdomain(DomId(1), port)?;
//! assert!(channel.take(), "a new channel begins signalled");
//!
//! guest.send(port)?;
//! assert!(channel.take() && !channel.take(), "once");
//! channel.notify()?;
//! assert!(guest.is_pending(port) && guest.upcall_pending(VcpuId(0)));
//! # Ok::<(), cantle_evtchn::EvtchnError>(())
//! ```

#[cfg(feature = "xen-device")]
mod device;
mod domain;
mod endpoint;
mod error;
mod fifo;
mod guest;
mod hub;
mod interface;
mod kernel;
mod lock;
mod page;
mod place;
mod platform;
mod ports;
mod rate;
mod slots;
mod snapshot;
mod system;
mod two_level;
mod upcall;
mod vcpus;

#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;

#[cfg(feature = "xen-device")]
pub use device::{DEVICE, EvtchnDevice};
pub use domain::PirqStatus;
pub use error::{EvtchnError, FifoError, PirqError, VcpuInfoError};
pub use guest::{GuestConfig, GuestDomain, PollGuard, Stats};
pub use hub::Hub;
pub use interface::Abi;
pub use kernel::{KernelPorts, Route};
pub use platform::{Channel, EventChannels};
pub use rate::RateLimit;
pub use slots::{PortState, Status};
pub use snapshot::{RestoreError, SavedPort, SavedQueue, Snapshot};
pub use system::SystemDomain;
pub use upcall::Upcall;
