//! The requests, with types: what every [`Client`](super::Client) can do, by what it is about.
//!
//! Paths are absolute, or relative to the client's own `/local/domain/<domid>`. Each request fails with
//! [`Errno::EACCES`](cantle_abi::Errno::EACCES) where permissions forbid it, [`Errno::EINVAL`](cantle_abi::Errno::EINVAL) for a malformed path,
//! [`Errno::EIO`](cantle_abi::Errno::EIO) where the connection is gone; what else, is said with each.

mod read;
mod transact;
mod watch;
mod write;

use cantle_abi::io::xs_wire::XsType;

use super::{Client, TxId};
use crate::Error;

pub use read::ReadExt;
pub use transact::{TRANSACT_TRIES, TransactExt};
pub use watch::WatchExt;
pub use write::WriteExt;

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
