//! The beginning and the end of transactions.

use cantle_abi::Errno;

use super::Reply;
use crate::client::TxId;
use crate::server::{ConnId, Server};

impl Server {
    pub(super) fn transaction_start(&mut self, conn: ConnId, tx: TxId) -> Result<Reply, Errno> {
        // There is nothing like a transaction in a transaction.
        if tx != TxId::NONE {
            return Err(Errno::EBUSY);
        }
        let actor = self.connection(conn)?.actor;
        let limit = self.limits.transactions;
        let usage = self.usage(actor.domid);
        if !actor.privileged && usage.transactions >= limit {
            usage.quota_hits += 1;
            return Err(Errno::ENOSPC);
        }
        usage.transactions += 1;
        let begun = self.store.begin();
        let connection = self.connection(conn)?;
        let tx = connection.new_tx();
        connection.transactions.insert(tx, begun);
        Ok(Reply::text(&tx.to_string()))
    }

    pub(super) fn transaction_end(
        &mut self,
        conn: ConnId,
        tx: TxId,
        payload: &[u8],
    ) -> Result<Reply, Errno> {
        let commit = match payload {
            b"T\0" => true,
            b"F\0" => false,
            _ => return Err(Errno::EINVAL),
        };
        let connection = self.connection(conn)?;
        let actor = connection.actor;
        let open = connection.transactions.remove(&tx.0).ok_or(Errno::ENOENT)?;
        self.usage(actor.domid).transactions -= 1;
        self.tidy(actor.domid);
        if commit {
            for change in self.store.commit(open, actor, &self.limits)? {
                self.fire(&change);
            }
        }
        Ok(Reply::Done)
    }
}
