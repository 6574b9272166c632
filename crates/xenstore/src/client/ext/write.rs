//! Changing nodes.

use cantle_abi::io::xs_wire::{XS_MKDIR, XS_RM, XS_SET_PERMS, XS_WRITE};

use super::ask;
use crate::client::{Client, TxId};
use crate::{Error, Perms};

/// Requests that change nodes.
pub trait WriteExt: Client {
    /// Sets a node's value, making it and its missing ancestors.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`](cantle_abi::Errno::ENOSPC) where a quota is used up.
    fn write(&self, tx: TxId, path: &str, value: &[u8]) -> Result<(), Error> {
        ask(self, XS_WRITE, tx, path, &[path.as_bytes(), b"\0", value]).map(drop)
    }

    /// Makes an empty node, and its missing ancestors; a node that exists stays as it is.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    fn mkdir(&self, tx: TxId, path: &str) -> Result<(), Error> {
        ask(self, XS_MKDIR, tx, path, &[path.as_bytes(), b"\0"]).map(drop)
    }

    /// Removes a node and all below it. A missing node is no error.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`](cantle_abi::Errno::ENOENT) where the node's parent is missing too.
    fn rm(&self, tx: TxId, path: &str) -> Result<(), Error> {
        ask(self, XS_RM, tx, path, &[path.as_bytes(), b"\0"]).map(drop)
    }

    /// Removes a node and all below it, where there is anything.
    ///
    /// # Errors
    ///
    /// None for a missing parent, unlike [`rm`](Self::rm).
    fn rm_if_there(&self, tx: TxId, path: &str) -> Result<(), Error> {
        match self.rm(tx, path) {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// Sets a node's permissions, which its owner may, and privileged domains.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`](cantle_abi::Errno::ENOENT) where there is no such node; [`Errno::EPERM`](cantle_abi::Errno::EPERM) where an unprivileged owner gives it away.
    fn set_perms(&self, tx: TxId, path: &str, perms: &Perms) -> Result<(), Error> {
        let parts = [path.as_bytes(), b"\0", &perms.emit()];
        ask(self, XS_SET_PERMS, tx, path, &parts).map(drop)
    }
}

impl<C: Client + ?Sized> WriteExt for C {}
