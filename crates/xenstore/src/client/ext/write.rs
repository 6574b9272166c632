//! Changing nodes.

use super::tell;
use crate::client::{Client, Request, TxId};
use crate::{Error, Perms};

/// Requests that change nodes.
pub trait WriteExt: Client {
    /// Sets a node's value, making it and its missing ancestors.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`](cantle_abi::Errno::ENOSPC) where a quota is used up.
    fn write(&self, tx: TxId, path: &str, value: &[u8]) -> Result<(), Error> {
        tell(self, tx, &Request::write(path, value))
    }

    /// Makes an empty node, and its missing ancestors; a node that exists stays as it is.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    fn mkdir(&self, tx: TxId, path: &str) -> Result<(), Error> {
        tell(self, tx, &Request::mkdir(path))
    }

    /// Removes a node and all below it. A missing node is no error.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`](cantle_abi::Errno::ENOENT) where the node's parent is missing too.
    fn rm(&self, tx: TxId, path: &str) -> Result<(), Error> {
        tell(self, tx, &Request::rm(path))
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
        tell(self, tx, &Request::set_perms(path, perms))
    }
}

impl<C: Client + ?Sized> WriteExt for C {}
