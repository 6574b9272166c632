//! Xenstore: the small tree of names by which Xen's domains find each other.
//!
//! From the bottom up:
//!
//! - the **store** (private): an immutable tree with structural sharing, permissions, accounts and transactions;
//! - [`wire`]: the protocol's messages, parsed and emitted without I/O;
//! - [`server`]: the protocol as a state machine, bytes in and bytes out; connections, watches, quotas, domains;
//! - [`state`]: the documented file of a whole xenstore, or of one guest's part, parsed and emitted without I/O;
//! - [`journal`]: the files by which a store survives its daemon's death;
//! - [`transport`]: how the bytes travel: a guest's shared page, a Unix socket, and the service that carries them for all;
//! - [`client`]: what everybody else uses, in this process, at a socket or in an event loop, and the typed requests upon it;
//! - [`xenbus`]: the handshake that every front and back end goes through, once for all kinds of device, and what a
//!   toolstack writes to make them exist.
//!
//! It knows neither KVM nor event channels nor grants: a ring's page is any
//! [`SharedMemory`](cantle_abi::SharedMemory), and how a guest is notified is a closure of the caller's. It has no
//! global state, makes no threads (but for a journal's checkpoints), and the server asks no clock.
//!
//! # A store in this process
//!
//! ```
//! use cantle_abi::DomId;
//! use cantle_xenstore::prelude::*;
//! use cantle_xenstore::{Access, Perms, Shared, TxId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Shared::default();
//! let dom0 = store.client(DomId::DOM0)?;
//! store.introduce(DomId(5))?;
//!
//! // A home for domain 5: its own, and nobody else's.
//! dom0.transact(|tx| {
//!     dom0.mkdir(tx, "/local/domain/5")?;
//!     dom0.set_perms(tx, "/local/domain/5", &Perms::new(DomId(5), Access::None))
//! })?;
//!
//! // The guest watches a path of its own; the first event comes at once.
//! let guest = store.client(DomId(5))?;
//! guest.watch("control/shutdown", "token")?;
//! assert_eq!(guest.take_event().unwrap().path, "control/shutdown");
//!
//! dom0.write(TxId::NONE, "/local/domain/5/control/shutdown", b"poweroff")?;
//! assert!(guest.take_event().is_some(), "and its event_fd() was readable");
//! assert_eq!(guest.read(TxId::NONE, "control/shutdown")?, b"poweroff");
//!
//! // Two writers of the same value: the second to commit has seen what is no longer true.
//! let ours = dom0.transaction_start()?;
//! dom0.read(ours, "/local/domain/5/control/shutdown")?;
//! guest.write(TxId::NONE, "control/shutdown", b"")?;
//! assert!(dom0.transaction_end(ours, true).unwrap_err().is_again());
//!
//! // When the domain is gone, so is everything that it owned and every mention of it.
//! store.release(DomId(5))?;
//! assert!(!dom0.exists(TxId::NONE, "/local/domain/5")?);
//! # Ok(())
//! # }
//! ```

pub mod client;
mod error;
pub mod journal;
mod limits;
mod path;
mod perms;
mod quota;
pub mod server;
mod shared;
pub mod state;
mod store;
pub mod transport;
mod wake;
pub mod wire;
pub mod xenbus;

pub use client::{Client, LocalClient, TxId, WatchEvent};
pub use error::Error;
pub use limits::{Limits, Quota};
pub use perms::{Access, Perms};
pub use server::Server;
pub use shared::{Shared, Waker};
pub use transport::Service;

/// [`Client`] and the requests upon it: `use cantle_xenstore::prelude::*`.
pub mod prelude {
    pub use crate::client::{
        Client, ControlExt, DomainExt, ReadExt, TransactExt, WatchExt, WriteExt,
    };
}
