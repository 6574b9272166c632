//! Open transactions: as they are, for ourselves, and as the document has them.

use std::collections::BTreeMap;

use cantle_abi::DomId;

use super::{node_perms, plain};
use crate::server::Server;
use crate::server::connection::Connection;
use crate::state::own::{Op, Own, Step, TransactionState};
use crate::state::{EmitError, Pending, Record, TransactionData, emit};
use crate::store::{Asked, Difference, Edit, Kept, Query, Told, Transaction, Tree, differences};
use crate::{Access, Perms};

impl Server {
    pub(super) fn save_transactions(
        &self,
        out: &mut Vec<u8>,
        conn_id: u32,
        connection: &Connection,
    ) -> Result<(), EmitError> {
        let mut open: Vec<_> = connection.transactions.iter().collect();
        open.sort_by_key(|(tx_id, _)| **tx_id);
        for (tx_id, tx) in open {
            let tx_id = *tx_id;
            emit(
                out,
                &Record::Transaction(TransactionData { conn_id, tx_id }),
            )?;
            self.save_log(out, conn_id, tx_id, tx)?;
            self.save_pending(out, (conn_id, tx_id), tx, connection, None)?;
        }
        Ok(())
    }

    /// The transaction exactly, for ourselves.
    fn save_log(
        &self,
        out: &mut Vec<u8>,
        conn_id: u32,
        tx_id: u32,
        tx: &Transaction,
    ) -> Result<(), EmitError> {
        let mut base = Vec::new();
        differences(&self.store.tree, tx.base(), |path, difference| {
            let node = match difference {
                Difference::Gone => None,
                Difference::Set(node) => Some(node.keep()),
            };
            base.push((path.to_owned(), node));
        });
        let told: Vec<Told> = tx.told().collect();
        let state = TransactionState {
            conn_id,
            tx_id,
            doomed: tx.is_doomed(),
            base: base
                .iter()
                .map(|(path, kept)| plain(path, kept.as_ref().map(Kept::seen).as_ref(), None))
                .collect(),
            log: told.iter().map(step).collect(),
        };
        emit(out, &Record::Own(Own::Transaction(state)))
    }

    /// The transaction of a guest that leaves, whose home alone goes with it.
    pub(super) fn save_transaction(
        &self,
        out: &mut Vec<u8>,
        (conn_id, tx_id): (u32, u32),
        tx: &Transaction,
        connection: &Connection,
        home: &str,
    ) -> Result<(), EmitError> {
        let record = Record::Transaction(TransactionData { conn_id, tx_id });
        emit(out, &record)?;
        self.save_pending(out, (conn_id, tx_id), tx, connection, Some(home))
    }

    /// The transaction as the document has it, for others; with a home, for those who know nothing beyond that.
    fn save_pending(
        &self,
        out: &mut Vec<u8>,
        (conn_id, tx_id): (u32, u32),
        tx: &Transaction,
        connection: &Connection,
        home: Option<&str>,
    ) -> Result<(), EmitError> {
        let pending = |read, written| {
            Some(Pending {
                conn_id,
                tx_id,
                read,
                written,
            })
        };
        let actor = connection.actor;
        let allowance = self.quotas.allowance(actor);
        let known = |told: Told| home.is_none_or(|home| is_within(&told.path, home));
        let committed = self
            .store
            .as_if_committed(tx, actor, &allowance)
            .filter(|_| tx.told().all(known));
        let Some(tree) = committed else {
            // Nobody has this value: whoever compares finds that it has changed.
            let top = home.unwrap_or("/");
            let node = self.store.tree.get(top);
            let value = node.as_ref().map_or(&[][..], |node| node.value());
            let other = [value, b"?"].concat();
            let mut record = plain(top, node.as_ref(), pending(true, false));
            if node.is_none() {
                node_perms(&Perms::new(DomId::DOM0, Access::None), &mut record.perms);
            }
            record.value = &other;
            return emit(out, &Record::Node(record));
        };
        // In the order of paths, so parents come first.
        for (path, touched) in self.touched(tx, &tree) {
            let (read, written) = match touched.gone {
                true => (false, false),
                false => (touched.read, touched.written),
            };
            // What was only read may be gone with a node above it: it was read as it is for all.
            let seen = if written { &tree } else { &self.store.tree };
            let node = seen.get(&path).filter(|_| !touched.gone);
            emit(
                out,
                &Record::Node(plain(&path, node.as_ref(), pending(read, written))),
            )?;
        }
        Ok(())
    }

    /// What a transaction has to do with which nodes, if `tree` is what comes of it.
    fn touched(&self, tx: &Transaction, tree: &Tree) -> BTreeMap<String, Touched> {
        let mut all: BTreeMap<String, Touched> = BTreeMap::new();
        differences(&self.store.tree, tree, |path, difference| {
            let touched = all.entry(path.to_owned()).or_default();
            match difference {
                Difference::Gone => touched.gone = true,
                Difference::Set(_) => touched.written = true,
            }
        });
        for Told { path, asked, .. } in tx.told() {
            let there = tree.get(&path).is_some();
            let touched = all.entry(path.into_string()).or_default();
            match asked {
                Asked::Query(_) => touched.read = true,
                // What has changed nothing says what was there, and does it again.
                Asked::Edit(_) if !touched.written && !touched.gone => {
                    touched.read = true;
                    touched.written = there;
                }
                Asked::Edit(_) => {}
            }
        }
        all
    }
}

/// What a transaction has to do with a node.
#[derive(Default)]
struct Touched {
    read: bool,
    written: bool,
    gone: bool,
}

/// Whether a path is that of a node or of one below it.
fn is_within(path: &str, top: &str) -> bool {
    path.strip_prefix(top)
        .is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

fn step(told: &Told) -> Step<'_> {
    let (mut perms, mut value) = (Vec::new(), &[][..]);
    let op = match &told.asked {
        Asked::Query(Query::Value) => Op::Value,
        Asked::Query(Query::Children) => Op::Children,
        Asked::Query(Query::Perms) => Op::Perms,
        Asked::Edit(Edit::Write(written)) => {
            value = written;
            Op::Write
        }
        Asked::Edit(Edit::Mkdir) => Op::Mkdir,
        Asked::Edit(Edit::Rm) => Op::Rm,
        Asked::Edit(Edit::SetPerms(set)) => {
            node_perms(set, &mut perms);
            Op::SetPerms
        }
    };
    let errno = told.answer.err().map_or(0, |errno| errno.0);
    Step {
        op,
        errno: u16::try_from(errno).unwrap_or(u16::MAX),
        perms,
        path: told.path.as_bytes(),
        value,
    }
}
