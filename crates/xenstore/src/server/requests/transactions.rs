//! The beginning and the end of transactions.

use cantle_abi::{DomId, Errno};

use super::Reply;
use crate::Quota;
use crate::client::TxId;
use crate::server::log::{self, Switch};
use crate::server::{ConnId, Server};

impl Server {
    pub(super) fn transaction_start(&mut self, conn: ConnId, tx: TxId) -> Result<Reply, Errno> {
        // There is nothing like a transaction in a transaction.
        if tx != TxId::NONE {
            return Err(Errno::EBUSY);
        }
        let actor = self.connection(conn)?.actor;
        let begun = self.store.begin();
        let bytes = begun.bytes(actor.domid);
        let open = self.quotas.budget(actor.domid).transactions + 1;
        self.claim(actor, Quota::Transactions, open, bytes, "")?;
        self.quotas.budget(actor.domid).transactions = open;
        let connection = self.connection(conn)?;
        connection.transaction_bytes += bytes;
        let tx = connection.new_tx();
        connection.transactions.insert(tx, begun);
        self.log_transaction(actor.domid, TxId(tx), "begun");
        self.begin_patience(conn, tx);
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
        connection.transaction_bytes -= open.bytes(actor.domid);
        self.quotas.budget(actor.domid).close_transactions(1);
        if !commit {
            self.log_transaction(actor.domid, tx, "aborted");
            self.end_patience(conn, tx.0, false);
            return Ok(Reply::Done);
        }
        let before = self.store.tree.clone();
        let result = self.quotas.ask(actor, "", |allowance| {
            self.store.commit(open, actor, allowance)
        });
        let what = if result.is_ok() {
            "committed"
        } else {
            "refused"
        };
        self.log_transaction(actor.domid, tx, what);
        if let Some(path) = self.store.take_conflict() {
            self.patience.failed(conn, &path);
        }
        self.end_patience(conn, tx.0, result.is_ok());
        let changes = result?;
        self.patience.changed(conn, &changes);
        self.fire_committed(&changes, &before);
        Ok(Reply::Done)
    }

    fn log_transaction(&self, domid: DomId, tx: TxId, what: &'static str) {
        if self.log.has(Switch::Transaction) {
            log::transaction(domid, tx, what);
        }
    }
}
