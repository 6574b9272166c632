//! Reading and changing nodes.

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX;

use super::{Reply, number, one};
use crate::client::TxId;
use crate::path::{Resolved, resolve};
use crate::server::{ConnId, Server};
use crate::store::{Edit, Kept, Query};
use crate::wire::{string_and_rest, strings};

impl Server {
    pub(super) fn query(
        &mut self,
        conn: ConnId,
        tx: TxId,
        payload: &[u8],
        query: Query,
    ) -> Result<Kept, Errno> {
        self.query_at(conn, tx, one(payload)?, query)
    }

    pub(super) fn query_at(
        &mut self,
        conn: ConnId,
        tx: TxId,
        path: &[u8],
        query: Query,
    ) -> Result<Kept, Errno> {
        let connection = self.connections.get_mut(&conn).ok_or(Errno::EIO)?;
        let Resolved { path, .. } = resolve(path, &connection.home)?;
        if tx == TxId::NONE {
            let node = connection.actor.lookup(&self.store.tree, &path)?;
            return Ok(node.keep());
        }
        let open = connection
            .transactions
            .get_mut(&tx.0)
            .ok_or(Errno::ENOENT)?;
        let actor = connection.actor;
        let before = open.bytes(actor.domid);
        let result = self.quotas.ask(actor, &path, |allowance| {
            self.store.query_in(open, actor, &path, query, allowance)
        });
        connection.transaction_bytes += open.bytes(actor.domid) - before;
        result
    }

    pub(super) fn edit(
        &mut self,
        conn: ConnId,
        tx: TxId,
        path: &[u8],
        edit: Edit,
    ) -> Result<Reply, Errno> {
        let connection = self.connections.get_mut(&conn).ok_or(Errno::EIO)?;
        let Resolved { path, .. } = resolve(path, &connection.home)?;
        let actor = connection.actor;
        if tx == TxId::NONE {
            let change = self.quotas.ask(actor, &path, |allowance| {
                self.store.edit(actor, &path, &edit, allowance)
            })?;
            self.patience.changed(conn, change.as_slice());
            self.fire(change.as_slice());
            return Ok(Reply::Done);
        }
        let open = connection
            .transactions
            .get_mut(&tx.0)
            .ok_or(Errno::ENOENT)?;
        let before = open.bytes(actor.domid);
        let result = self.quotas.ask(actor, &path, |allowance| {
            self.store.edit_in(open, actor, &path, edit, allowance)
        });
        connection.transaction_bytes += open.bytes(actor.domid) - before;
        result.map(|()| Reply::Done)
    }

    pub(super) fn write(&mut self, conn: ConnId, tx: TxId, payload: &[u8]) -> Result<Reply, Errno> {
        let (path, value) = string_and_rest(payload)?;
        self.edit(conn, tx, path, Edit::Write(value.into()))
    }

    pub(super) fn directory(
        &mut self,
        conn: ConnId,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Reply, Errno> {
        let node = self.query(conn, tx, payload, Query::Children)?;
        let mut list = Vec::new();
        for names in node.seen().names() {
            list.extend_from_slice(names.as_bytes());
            if list.len() > XENSTORE_PAYLOAD_MAX {
                return Err(Errno::E2BIG);
            }
        }
        Ok(Reply::Bytes(list))
    }

    /// A part of the list of children that begins `offset` bytes into it, after the list's generation; the last part ends
    /// with an empty name.
    pub(super) fn directory_part(
        &mut self,
        conn: ConnId,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Reply, Errno> {
        let [path, offset] = strings(payload)?;
        let offset = usize::try_from(number(offset)?).map_err(|_| Errno::EINVAL)?;
        let node = self.query_at(conn, tx, path, Query::Children)?;
        let mut part = format!("{}\0", node.seen().generation()).into_bytes();
        let mut at = 0_usize;
        let names = node.seen().names();
        for name in names.flat_map(|names| names.split_inclusive('\0')) {
            let len = name.len();
            // The offset is one of bytes: it may point into a name, whose rest is listed then.
            let skipped = offset.saturating_sub(at).min(len);
            if skipped < len {
                // One byte is kept for the end's mark.
                if part.len() + len - skipped + 1 > XENSTORE_PAYLOAD_MAX {
                    return Ok(Reply::Bytes(part));
                }
                part.extend_from_slice(name.as_bytes().get(skipped..).unwrap_or_default());
            }
            at += len;
        }
        part.push(0);
        Ok(Reply::Bytes(part))
    }
}
