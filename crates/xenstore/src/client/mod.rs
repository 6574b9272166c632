//! The client's side: what backends, toolstacks and tests ask of a xenstore, wherever it runs.

mod ext;
mod link;
mod local;
mod machine;
mod nonblocking;
mod poller;
pub mod reply;
mod request;
mod socket;
mod watcher;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::XsType;

pub use ext::{ControlExt, DomainExt, ReadExt, TRANSACT_TRIES, TransactExt, WatchExt, WriteExt};
pub use link::{ConnectError, Lost, default_path};
pub use local::LocalClient;
pub use machine::{Broken, Ticket};
pub use nonblocking::NonBlocking;
pub use request::Request;
pub use socket::SocketClient;
pub use watcher::{Watch, Watcher};

/// A transaction's number, within one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub u32);

impl TxId {
    /// No transaction: each request stands alone.
    pub const NONE: Self = Self(0);
}

/// Something changed at or below a watched path.
///
/// It says where to look again, not what is there now: several changes may come as one event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WatchEvent {
    /// The node that changed, relative if the watched path was; or the watched path itself, which can mean anything below it.
    pub path: String,
    /// The token that the watch was set with.
    pub token: String,
}

/// A connection to a xenstore.
///
/// These functions are all that a transport has to offer; what people use is in [`ReadExt`], [`WriteExt`], [`WatchExt`] and
/// [`TransactExt`], which every client has.
/// Requests of several threads may be outstanding at once; each waits for its own reply.
pub trait Client: Send + Sync {
    /// Sends one request and waits for its reply's payload.
    ///
    /// # Errors
    ///
    /// The protocol's error; [`Errno::EIO`] where the connection is gone: whether a request that was on its way has been
    /// carried out is not known then.
    fn request(&self, op: XsType, tx: TxId, payload: &[u8]) -> Result<Vec<u8>, Errno>;

    /// The oldest watch event that waits, if any. Never blocks.
    fn take_event(&self) -> Option<WatchEvent>;

    /// Readable while an event waits. Not to be read from: [`take_event`](Self::take_event) does that.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// Whether the connection is there still, as far as is known. When it is lost, [`event_fd`](Self::event_fd) is readable until
    /// [`take_event`](Self::take_event) has said that there is nothing more.
    fn is_connected(&self) -> bool;
}

impl<C: Client + ?Sized> Client for Arc<C> {
    fn request(&self, op: XsType, tx: TxId, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        (**self).request(op, tx, payload)
    }
    fn take_event(&self) -> Option<WatchEvent> {
        (**self).take_event()
    }
    fn event_fd(&self) -> BorrowedFd<'_> {
        (**self).event_fd()
    }
    fn is_connected(&self) -> bool {
        (**self).is_connected()
    }
}
