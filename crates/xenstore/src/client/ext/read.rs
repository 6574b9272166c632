//! Looking at nodes.

use std::str::FromStr;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{XS_DIRECTORY, XS_DIRECTORY_PART, XS_GET_PERMS, XS_READ};

use super::ask;
use crate::client::{Client, TxId};
use crate::{Error, Perms};

/// How many parts a directory is read in at most, restarts included.
const LONG_DIRECTORY_PARTS: u32 = 65_536;

/// Requests that look at nodes.
pub trait ReadExt: Client {
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
}

impl<C: Client + ?Sized> ReadExt for C {}

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
