//! What the other end has published.

use std::fmt;
use std::str::FromStr;

use cantle_abi::DomId;

use crate::prelude::*;
use crate::{Error, TxId};

/// The other end's directory at one moment: everything read through it belongs together.
///
/// All of it is the other end's word. Each value is read once and checked by whoever asked for it.
pub struct OtherEnd<'a> {
    client: &'a dyn Client,
    tx: TxId,
    path: &'a str,
    domain: DomId,
}

impl fmt::Debug for OtherEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherEnd")
            .field("path", &self.path)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl<'a> OtherEnd<'a> {
    pub(super) fn new(client: &'a dyn Client, tx: TxId, path: &'a str, domain: DomId) -> Self {
        Self {
            client,
            tx,
            path,
            domain,
        }
    }

    /// Its domain, as the toolstack said: for a back end's device by its [`DeviceId`](super::DeviceId), for a front end by `backend-id`.
    #[must_use]
    pub fn domain(&self) -> DomId {
        self.domain
    }

    /// A key's text, such as `protocol` or `queue-0/tx-ring-ref`; `None` where the key is missing.
    ///
    /// # Errors
    ///
    /// Any other failure to read it; text that is no UTF-8 is `EINVAL`.
    pub fn get(&self, key: &str) -> Result<Option<String>, Error> {
        let path = format!("{}/{key}", self.path);
        match self.client.read_string(self.tx, &path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A key that may be missing, parsed.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get), and `EINVAL` for text that does not parse.
    pub fn optional<T: FromStr>(&self, key: &str) -> Result<Option<T>, Error> {
        match self.require(key) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A key that must be there, parsed: `require("ring-ref").map(GrantRef)`.
    ///
    /// # Errors
    ///
    /// As for [`optional`](Self::optional), and `ENOENT` where it is missing.
    pub fn require<T: FromStr>(&self, key: &str) -> Result<T, Error> {
        self.client
            .read_parsed(self.tx, &format!("{}/{key}", self.path))
    }
}
