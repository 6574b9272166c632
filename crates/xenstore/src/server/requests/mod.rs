//! The requests: which there are, and who may make them. Each group has a file of its own.

mod domains;
mod nodes;
mod permissions;
mod quotas;
mod transactions;
mod watches;

pub(super) use watches::TOKEN_MAX;

use std::sync::Arc;

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::{
    XENSTORE_PAYLOAD_MAX, XS_CONTROL, XS_DIRECTORY, XS_DIRECTORY_PART, XS_ERROR,
    XS_GET_DOMAIN_PATH, XS_GET_FEATURE, XS_GET_PERMS, XS_GET_QUOTA, XS_INTRODUCE,
    XS_IS_DOMAIN_INTRODUCED, XS_MKDIR, XS_READ, XS_RELEASE, XS_RESET_WATCHES, XS_RESUME, XS_RM,
    XS_SET_FEATURE, XS_SET_PERMS, XS_SET_QUOTA, XS_SET_TARGET, XS_TRANSACTION_END,
    XS_TRANSACTION_START, XS_UNWATCH, XS_WATCH, XS_WATCH_EVENT, XS_WRITE, XsType,
};

use super::connection::Connection;
use super::watches::Watch;
use super::{ConnId, HostCommand, Server};
use crate::client::TxId;
use crate::store::{Edit, Kept, Query};
use crate::wire::strings;

/// What a request is answered.
#[derive(Debug)]
pub(super) enum Reply {
    /// It is done.
    Done,
    /// The watch is set; its first event is due.
    Watching(Arc<Watch>),
    /// A node's value.
    Value(Kept),
    /// Anything else.
    Bytes(Vec<u8>),
    /// Nothing yet: the host will answer.
    Later(HostCommand),
}

impl Reply {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Done | Self::Watching(_) => b"OK\0",
            Self::Value(node) => node.value(),
            Self::Bytes(bytes) => bytes,
            Self::Later(_) => &[],
        }
    }

    /// A string with its NUL.
    fn text(text: &str) -> Self {
        Self::Bytes([text.as_bytes(), b"\0"].concat())
    }

    fn limited(bytes: Vec<u8>) -> Result<Self, Errno> {
        if bytes.len() > XENSTORE_PAYLOAD_MAX {
            Err(Errno::E2BIG)
        } else {
            Ok(Self::Bytes(bytes))
        }
    }
}

impl Server {
    /// Runs one request. What is asked is checked in the order in which xenstored does: the kind, the right to it, the
    /// transaction, the payload.
    pub(super) fn execute(
        &mut self,
        conn: ConnId,
        op: XsType,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Reply, Errno> {
        if payload.len() > XENSTORE_PAYLOAD_MAX {
            return Err(Errno::E2BIG);
        }
        let connection = self.connection(conn)?;
        if for_the_toolstack(op) {
            connection.must_be_privileged()?;
        }
        // These two are never part of one, and name one or not.
        let outside = matches!(op, XS_WATCH | XS_UNWATCH) || !is_request(op);
        if tx != TxId::NONE && !outside && !connection.transactions.contains_key(&tx.0) {
            return Err(Errno::ENOENT);
        }
        match op {
            XS_READ => {
                let node = self.query(conn, tx, payload, Query::Value)?;
                Ok(Reply::Value(node))
            }
            XS_WRITE => self.write(conn, tx, payload),
            XS_MKDIR => self.edit(conn, tx, one(payload)?, Edit::Mkdir),
            XS_RM => self.edit(conn, tx, one(payload)?, Edit::Rm),
            XS_DIRECTORY => self.directory(conn, tx, payload),
            XS_DIRECTORY_PART => self.directory_part(conn, tx, payload),
            XS_GET_PERMS => self.get_perms(conn, tx, payload),
            XS_SET_PERMS => self.set_perms(conn, tx, payload),
            XS_TRANSACTION_START => self.transaction_start(conn, tx),
            XS_TRANSACTION_END => self.transaction_end(conn, tx, payload),
            XS_WATCH => self.watch(conn, payload),
            XS_UNWATCH => self.unwatch(conn, payload),
            XS_RESET_WATCHES => self.reset_watches(conn),
            XS_GET_DOMAIN_PATH => Self::get_domain_path(payload),
            XS_GET_FEATURE => self.get_feature(conn, payload),
            XS_SET_FEATURE => self.set_feature(payload),
            XS_IS_DOMAIN_INTRODUCED => self.is_domain_introduced(payload),
            XS_INTRODUCE => self.introduce_by_message(payload),
            XS_RELEASE => self.release_by_message(payload),
            XS_RESUME => self.resume_by_message(payload),
            XS_SET_TARGET => self.set_target(payload),
            XS_GET_QUOTA => self.get_quota(payload),
            XS_SET_QUOTA => self.set_quota(payload),
            XS_CONTROL => self.control(payload),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn connection(&mut self, conn: ConnId) -> Result<&mut Connection, Errno> {
        self.connections.get_mut(&conn).ok_or(Errno::EIO)
    }
}

impl Connection {
    fn must_be_privileged(&self) -> Result<(), Errno> {
        if self.actor.privileged {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }
}

/// Whether it is a request, of whatever kind. Events and errors come from the server alone; number 20 was RESTRICT once.
fn is_request(op: XsType) -> bool {
    op.0 <= XS_SET_QUOTA.0 && !matches!(op, XS_WATCH_EVENT | XS_ERROR | XsType(20))
}

/// Whether only privileged domains may ask that at all.
fn for_the_toolstack(op: XsType) -> bool {
    matches!(
        op,
        XS_CONTROL
            | XS_INTRODUCE
            | XS_RELEASE
            | XS_IS_DOMAIN_INTRODUCED
            | XS_RESUME
            | XS_SET_TARGET
            | XS_SET_FEATURE
            | XS_GET_QUOTA
            | XS_SET_QUOTA
    )
}

/// A payload that is one string.
fn one(payload: &[u8]) -> Result<&[u8], Errno> {
    strings::<1>(payload).map(|[string]| string)
}

fn number(digits: &[u8]) -> Result<u64, Errno> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Errno::EINVAL);
    }
    core::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Errno::EINVAL)
}
