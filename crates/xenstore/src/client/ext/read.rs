//! Looking at nodes.

use std::str::FromStr;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{XS_DIRECTORY_PART, XS_READ};

use super::ask;
use crate::client::{Client, Request, TxId, reply};
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
        ask(self, tx, &Request::read(path))
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
        match ask(self, tx, &Request::directory(path)) {
            Ok(list) => Ok(reply::names(&list)),
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
        let request = Request::get_perms(path);
        Perms::parse(&ask(self, tx, &request)?).map_err(|errno| request.error(errno))
    }
}

impl<C: Client + ?Sized> ReadExt for C {}

/// Lists a directory that is too long for one message, part by part; starts over when it changes meanwhile.
fn long_directory<C: Client + ?Sized>(
    client: &C,
    tx: TxId,
    path: &str,
) -> Result<Vec<String>, Error> {
    let broken = |errno| Error::new(XS_DIRECTORY_PART, path, errno);
    let mut list = Vec::new();
    let mut generation = Vec::new();
    for _ in 0..LONG_DIRECTORY_PARTS {
        let answer = ask(client, tx, &Request::directory_part(path, list.len()))?;
        let (now, part) = reply::directory_part(&answer).map_err(broken)?;
        if !list.is_empty() && generation != now {
            list.clear();
            continue;
        }
        generation = now.to_vec();
        // The last part ends in an empty name.
        match part.strip_suffix(b"\0") {
            Some(rest) if rest.is_empty() || rest.ends_with(b"\0") => {
                list.extend_from_slice(rest);
                return Ok(reply::names(&list));
            }
            Some(_) => list.extend_from_slice(part),
            None => return Err(broken(Errno::EIO)),
        }
    }
    Err(broken(Errno::EAGAIN))
}
