//! The requests, with types: what every [`Client`](super::Client) can do, by what it is about.
//!
//! Paths are absolute, or relative to the client's own `/local/domain/<domid>`. Each request fails with
//! [`Errno::EACCES`] where permissions forbid it, [`Errno::EINVAL`] for a malformed path,
//! [`Errno::EIO`] where the connection is gone; what else, is said with each.

mod control;
mod domains;
mod read;
mod transact;
mod watch;
mod write;

use cantle_abi::Errno;

use super::{Client, Request, TxId};
use crate::Error;

pub use control::ControlExt;
pub use domains::DomainExt;
pub use read::ReadExt;
pub use transact::{TRANSACT_TRIES, TransactExt};
pub use watch::WatchExt;
pub use write::WriteExt;

/// Sends a request and waits for its reply's payload.
fn ask<C: Client + ?Sized>(client: &C, tx: TxId, request: &Request<'_>) -> Result<Vec<u8>, Error> {
    request
        .payload()
        .and_then(|payload| client.request(request.op(), tx, payload))
        .map_err(|errno| request.error(errno))
}

/// The same, where the reply says no more than that it is done.
fn tell<C: Client + ?Sized>(client: &C, tx: TxId, request: &Request<'_>) -> Result<(), Error> {
    ask(client, tx, request).map(drop)
}

/// The same, where the reply is to be understood.
fn learn<C: Client + ?Sized, T>(
    client: &C,
    request: &Request<'_>,
    understand: impl FnOnce(&[u8]) -> Result<T, Errno>,
) -> Result<T, Error> {
    let reply = ask(client, TxId::NONE, request)?;
    understand(&reply).map_err(|errno| request.error(errno))
}
