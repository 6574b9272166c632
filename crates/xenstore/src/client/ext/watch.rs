//! Setting watches.

use cantle_abi::io::xs_wire::{XS_UNWATCH, XS_WATCH};

use super::ask;
use crate::Error;
use crate::client::{Client, TxId};

/// Requests about watches.
pub trait WatchExt: Client {
    /// Be told of changes at and below a path. One event comes at once, whether or not the node exists.
    ///
    /// # Errors
    ///
    /// [`Errno::EEXIST`](cantle_abi::Errno::EEXIST) where the same path is watched with the same token; [`Errno::E2BIG`](cantle_abi::Errno::E2BIG) where the quota is used up.
    fn watch(&self, path: &str, token: &str) -> Result<(), Error> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        ask(self, XS_WATCH, TxId::NONE, path, &parts).map(drop)
    }

    /// Undoes [`watch`](Self::watch); events of it that wait are dropped.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`](cantle_abi::Errno::ENOENT) where there is no such watch.
    fn unwatch(&self, path: &str, token: &str) -> Result<(), Error> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        ask(self, XS_UNWATCH, TxId::NONE, path, &parts).map(drop)
    }
}

impl<C: Client + ?Sized> WatchExt for C {}
