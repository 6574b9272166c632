//! The requests, with types.

use std::str::FromStr;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{
    XS_DIRECTORY, XS_DIRECTORY_PART, XS_GET_PERMS, XS_MKDIR, XS_READ, XS_RM, XS_SET_PERMS,
    XS_TRANSACTION_END, XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WRITE, XsType,
};

use super::{Client, TxId};
use crate::{Error, Perms};

/// How often [`ClientExt::transact`] tries before it gives up with [`Errno::EAGAIN`].
pub const TRANSACT_TRIES: u32 = 256;

/// How many parts a directory is read in at most, restarts included.
const LONG_DIRECTORY_PARTS: u32 = 65_536;

/// The requests that every [`Client`] can make. Paths are absolute, or relative to the client's own
/// `/local/domain/<domid>`.
///
/// Each fails with [`Errno::EACCES`] where permissions forbid it, [`Errno::EINVAL`] for a malformed path,
/// [`Errno::EIO`] where the connection is gone; what else, is said below.
pub trait ClientExt: Client {
    /// A node's value.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`] where there is no such node.
    fn read(&self, tx: TxId, path: &str) -> Result<Vec<u8>, Error> {
        ask(self, XS_READ, tx, path, &[path.as_bytes(), b"\0"])
    }

    /// A node's value as text; a value that is no UTF-8 is [`Errno::EINVAL`].
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    fn read_string(&self, tx: TxId, path: &str) -> Result<String, Error> {
        String::from_utf8(self.read(tx, path)?)
            .map_err(|_| Error::new(XS_READ, path, Errno::EINVAL))
    }

    /// A node's value, parsed; text that does not parse is [`Errno::EINVAL`]. One trailing NUL is forgiven.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read).
    fn read_parsed<T: FromStr>(&self, tx: TxId, path: &str) -> Result<T, Error> {
        let text = self.read_string(tx, path)?;
        text.strip_suffix('\0')
            .unwrap_or(&text)
            .parse()
            .map_err(|_| Error::new(XS_READ, path, Errno::EINVAL))
    }

    /// Whether a node exists (and may be read).
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read), [`Errno::ENOENT`] aside.
    fn exists(&self, tx: TxId, path: &str) -> Result<bool, Error> {
        match self.read(tx, path) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets a node's value, making it and its missing ancestors.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`] where a quota is used up.
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
    /// [`Errno::ENOENT`] where the node's parent is missing too.
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

    /// The names of the nodes below a node, however many.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`] where there is no such node.
    fn directory(&self, tx: TxId, path: &str) -> Result<Vec<String>, Error> {
        match ask(self, XS_DIRECTORY, tx, path, &[path.as_bytes(), b"\0"]) {
            Ok(list) => Ok(names(&list)),
            Err(error) if error.errno == Errno::E2BIG => long_directory(self, tx, path),
            Err(error) => Err(error),
        }
    }

    /// A node's permissions.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`] where there is no such node.
    fn get_perms(&self, tx: TxId, path: &str) -> Result<Perms, Error> {
        let list = ask(self, XS_GET_PERMS, tx, path, &[path.as_bytes(), b"\0"])?;
        Perms::parse(&list).map_err(|errno| Error::new(XS_GET_PERMS, path, errno))
    }

    /// Sets a node's permissions, which its owner may, and privileged domains.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`] where there is no such node; [`Errno::EPERM`] where an unprivileged owner gives it away.
    fn set_perms(&self, tx: TxId, path: &str, perms: &Perms) -> Result<(), Error> {
        let parts = [path.as_bytes(), b"\0", &perms.emit()];
        ask(self, XS_SET_PERMS, tx, path, &parts).map(drop)
    }

    /// Be told of changes at and below a path. One event comes at once, whether or not the node exists.
    ///
    /// # Errors
    ///
    /// [`Errno::EEXIST`] where the same path is watched with the same token; [`Errno::E2BIG`] where the quota is used up.
    fn watch(&self, path: &str, token: &str) -> Result<(), Error> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        ask(self, XS_WATCH, TxId::NONE, path, &parts).map(drop)
    }

    /// Undoes [`watch`](Self::watch); events of it that wait are dropped.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOENT`] where there is no such watch.
    fn unwatch(&self, path: &str, token: &str) -> Result<(), Error> {
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        ask(self, XS_UNWATCH, TxId::NONE, path, &parts).map(drop)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`] where the quota is used up.
    fn transaction_start(&self) -> Result<TxId, Error> {
        let reply = ask(self, XS_TRANSACTION_START, TxId::NONE, "", &[b"\0"])?;
        let text = reply.strip_suffix(b"\0").unwrap_or(&reply);
        core::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .map(TxId)
            .ok_or_else(|| Error::new(XS_TRANSACTION_START, "", Errno::EIO))
    }

    /// Ends a transaction: all of it happens at once, or nothing of it does.
    ///
    /// # Errors
    ///
    /// [`Errno::EAGAIN`] where others changed what it had seen: run it again. [`Errno::ENOENT`] where there is no such
    /// transaction. It is over in either case.
    fn transaction_end(&self, tx: TxId, commit: bool) -> Result<(), Error> {
        let verdict: &[u8] = if commit { b"T\0" } else { b"F\0" };
        ask(self, XS_TRANSACTION_END, tx, "", &[verdict]).map(drop)
    }

    /// Runs `body` in a transaction and commits it; runs it again where it conflicted, up to [`TRANSACT_TRIES`] times.
    ///
    /// # Errors
    ///
    /// What `body` returned (the transaction is then aborted), or the commit's error.
    fn transact<R>(&self, mut body: impl FnMut(TxId) -> Result<R, Error>) -> Result<R, Error> {
        for _ in 0..TRANSACT_TRIES {
            let tx = self.transaction_start()?;
            let result = match body(tx) {
                Ok(result) => result,
                Err(error) => {
                    // The body's error is what matters; a transaction that cannot be aborted is gone already.
                    let _ = self.transaction_end(tx, false);
                    return Err(error);
                }
            };
            match self.transaction_end(tx, true) {
                Ok(()) => return Ok(result),
                Err(error) if error.is_again() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(XS_TRANSACTION_END, "", Errno::EAGAIN))
    }
}

impl<C: Client + ?Sized> ClientExt for C {}

fn ask<C: Client + ?Sized>(
    client: &C,
    op: XsType,
    tx: TxId,
    path: &str,
    parts: &[&[u8]],
) -> Result<Vec<u8>, Error> {
    client
        .request(op, tx, &parts.concat())
        .map_err(|errno| Error::new(op, path, errno))
}

/// The strings of a NUL-terminated list.
fn names(list: &[u8]) -> Vec<String> {
    list.split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

/// Lists a directory that is too long for one message, part by part; starts over when it changes meanwhile.
fn long_directory<C: Client + ?Sized>(
    client: &C,
    tx: TxId,
    path: &str,
) -> Result<Vec<String>, Error> {
    let broken = || Error::new(XS_DIRECTORY_PART, path, Errno::EIO);
    let mut list = Vec::new();
    let mut generation = Vec::new();
    for _ in 0..LONG_DIRECTORY_PARTS {
        let offset = list.len().to_string();
        let parts = [path.as_bytes(), b"\0", offset.as_bytes(), b"\0"];
        let reply = ask(client, XS_DIRECTORY_PART, tx, path, &parts)?;
        let end = reply
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(broken)?;
        let (now, part) = reply.split_at(end);
        if !list.is_empty() && generation != now {
            list.clear();
            continue;
        }
        generation = now.to_vec();
        let part = part.get(1..).unwrap_or_default();
        // The last part ends in an empty name.
        match part.strip_suffix(b"\0") {
            Some(rest) if rest.is_empty() || rest.ends_with(b"\0") => {
                list.extend_from_slice(rest);
                return Ok(names(&list));
            }
            Some(_) => list.extend_from_slice(part),
            None => return Err(broken()),
        }
    }
    Err(broken())
}
