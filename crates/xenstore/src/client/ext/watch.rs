//! Setting watches.

use super::tell;
use crate::Error;
use crate::client::{Client, Request, TxId};

/// Requests about watches.
pub trait WatchExt: Client {
    /// Be told of changes at and below a path. One event comes at once, whether or not the node exists.
    ///
    /// # Errors
    ///
    /// [`Errno::EEXIST`](cantle_abi::Errno::EEXIST) where the same path is watched with the same token; [`Errno::E2BIG`](cantle_abi::Errno::E2BIG) where the quota is used up.
    fn watch(&self, path: &str, token: &str) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::watch(path, token))
    }

    /// As [`watch`](Self::watch), for changes at most `depth` levels below the path: 0 is the node alone, 1 its children too.
    /// A special watch (`@releaseDomain`) of depth 1 names the domain in its events' path.
    ///
    /// # Errors
    ///
    /// As for [`watch`](Self::watch); [`Errno::EINVAL`](cantle_abi::Errno::EINVAL) from a server before Xen 4.22, which knows no
    /// depths. A Linux guest's `/dev/xen/xenbus` ignores the depth.
    fn watch_depth(&self, path: &str, token: &str, depth: u32) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::watch_depth(path, token, depth))
    }

    /// Undoes a watch; events of it that wait are dropped.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`](cantle_abi::Errno::ENOENT) where there is no such watch.
    fn unwatch(&self, path: &str, token: &str) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::unwatch(path, token))
    }

    /// Forgets all watches and transactions of this client.
    ///
    /// # Errors
    ///
    /// None but those that all requests have.
    fn reset_watches(&self) -> Result<(), Error> {
        tell(self, TxId::NONE, &Request::reset_watches())
    }
}

impl<C: Client + ?Sized> WatchExt for C {}
