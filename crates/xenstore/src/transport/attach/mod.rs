//! How a VMM in another process has its guests' rings served: over a Unix socket of whole messages (`SOCK_SEQPACKET`).
//!
//! A VMM connects with [`Vmm::connect`] and says of each guest where its xenstore page is ([`Vmm::introduce`]). With the message go three
//! descriptors: the memory that has the page, an eventfd by which the daemon is woken (the guest's event channel, seen from the host), and
//! one that the daemon writes when the guest is to be notified. Every message is answered before the next is read.
//!
//! The daemon's side is [`VmmSocket`]; what it receives is an [`Order`], and the page is mapped by [`RingPage::map`].
//!
//! # A message
//!
//! 32 bytes, little-endian, one packet each:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | [`MAGIC`] |
//! | 4 | 2 | kind: 1 introduce, 2 release, 3 answer |
//! | 6 | 2 | domid |
//! | 8 | 4 | the guest's port (introduce), or the error's number, 0 for success (answer) |
//! | 12 | 4 | flags: bit 0, the ring was in use with a daemon that is gone ([`Introduction::interrupted`]) |
//! | 16 | 8 | where the page begins in the memory, in bytes (introduce) |
//! | 24 | 4 | features to be offered to the guest, `0xffff_ffff` for all that there are (introduce) |
//! | 28 | 4 | 0 |
//!
//! An introduction carries exactly three descriptors in this order: memory, wake, notify. Other messages carry none.
//!
//! # What each can do to the other
//!
//! The daemon maps one page, the ring, and nothing else of the memory. It keeps the memory's descriptor, for its own live update; a VMM
//! that does not want to lend that much puts the page into a memory file of its own. The memory must be a memory file that is sealed
//! against shrinking (`F_SEAL_SHRINK`), or a VMM could end the daemon, and with it its neighbours, by truncating it.
//!
//! A VMM that closes its socket, or dies, releases the domains that it introduced on it. It can name any domain: who may connect is
//! decided by the socket's folder and mode.
//!
//! # When the daemon dies
//!
//! A live update is not seen by the VMM. When a daemon is killed, its sockets close; the VMM connects to the next one and introduces its
//! guests again, now as [interrupted](Introduction::interrupted): requests may have been lost half-way, and the guests' watches are. The
//! daemon then says so in the page's error field (`XENSTORE_ERROR_COMM`), and serves the ring when the guest has reconnected.

mod message;
mod page;
mod receive;
mod vmm;

pub use message::MAGIC;
pub use page::{PageError, RingPage};
pub use receive::{Descriptors, Order, ReceiveError, VmmSocket};
pub use vmm::{AttachError, Vmm};

use cantle_abi::{DomId, Port};

/// What a VMM says of a guest's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The guest.
    pub domid: DomId,
    /// The guest's event channel, for the record: the daemon itself uses the eventfds.
    pub port: Port,
    /// Where the page begins in the memory, in bytes: a multiple of 4096.
    pub offset: u64,
    /// The server features that the guest may be offered; all ones for whatever there is.
    pub features: u32,
    /// The ring was in use already, with a daemon that ended without handing it over.
    pub interrupted: bool,
}
