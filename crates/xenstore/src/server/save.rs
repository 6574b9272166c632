//! Writing a server down as a migration stream.
//!
//! The order of the records is xenstored's: the store's own, connections with their watches, nodes, domains, transactions. What
//! the document has no room for is in [records of our own](crate::state::own), so that a server that is restored from its
//! stream does what the old one would have done, to the byte.
//!
//! # Open transactions
//!
//! The document describes a transaction by the nodes that it has read or written, as the transaction sees them. A transaction here is
//! more than that: the tree that it began with, and its log (see [the rule](crate::store)). So it is written twice. The record of
//! our own has both, exactly. For other readers there are nodes: the log is run on the tree as it is now; where that works, each
//! node that differs is *written*, each that was asked for is *read*, and where it does not, one node that has changed is
//! *read* as it never was, so that the transaction fails when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use cantle_abi::DomId;

use super::connection::Connection;
use super::domains::{Domain, INTRODUCE_DOMAIN, RELEASE_DOMAIN};
use super::watches::Watch;
use super::{ConnId, Server};
use crate::limits::Limits;
use crate::state::own::{
    ConnectionState, DomainState, Op, Own, ServerState, Step, TransactionState,
};
use crate::state::{
    Conn, ConnectionData, DomainData, EmitError, GlobalData, GlobalQuotaData, NodeData, NodePerm,
    Pending, Quota, Record, TransactionData, WatchData, emit, emit_header,
};
use crate::store::{
    Asked, Difference, Edit, Kept, NodeRef, Query, Told, Transaction, Tree, differences,
};
use crate::{Access, Perms};

/// Names of the bounds that [`Limits`] has beside the quotas.
pub(super) const REPLY_BYTES: &str = "reply-bytes";
/// See [`REPLY_BYTES`].
pub(super) const EVENT_BYTES: &str = "event-bytes";

/// What only the host knows: descriptors, ports, and what it has received and not fed to the server.
#[derive(Clone, Debug, Default)]
pub struct Host<'a> {
    /// Descriptors that belong to no connection.
    pub global: Option<GlobalData>,
    /// The connections that are to go on. All others end with this server.
    pub connections: Vec<HostConn<'a>>,
}

/// One connection, as the host knows it.
#[derive(Clone, Copy, Debug)]
pub struct HostConn<'a> {
    /// Its number.
    pub conn: ConnId,
    /// How its bytes travel. A ring's target is filled in by the server.
    pub by: Conn,
    /// What was received, and not taken by [`Server::feed`].
    pub unfed: &'a [u8],
    /// Which domain of that number it is, where the host can tell.
    pub unique_id: Option<u64>,
}

/// Why a server cannot be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The host names a connection that there is not.
    #[error("there is no connection {0:?}")]
    NoConnection(ConnId),
    /// The format has no room for something.
    #[error(transparent)]
    Format(#[from] EmitError),
}

/// A server's state at one moment, without its connections' output: what a journal needs. It is made in constant time as far
/// as nodes are concerned, and can be written by another thread.
#[derive(Debug)]
pub struct Checkpoint {
    /// Records that come before the nodes.
    head: Vec<u8>,
    tree: Tree,
    /// Records that come after them.
    tail: Vec<u8>,
}

impl Checkpoint {
    /// Appends the stream.
    ///
    /// # Errors
    ///
    /// [`SaveError::Format`].
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), SaveError> {
        emit_header(out);
        out.extend_from_slice(&self.head);
        let mut generations = Vec::new();
        let _: Result<(), SaveError> = self.tree.preorder(|_, node| {
            generations.push(node.generation());
            Ok(())
        });
        emit(out, &Record::Own(Own::Generations(generations)))?;
        let mut scratch = Vec::new();
        self.tree
            .preorder(|path, node| emit_node(out, path, node, &mut scratch))?;
        out.extend_from_slice(&self.tail);
        emit(out, &Record::End)?;
        Ok(())
    }
}

impl Server {
    /// Appends the whole state as a migration stream: the tree, domains, quotas, and of those connections that the host names
    /// everything that is on its way, their watches and their open transactions.
    ///
    /// Commands that the host has not answered ([`Action::Control`](super::Action::Control)) are its own business: their tickets are
    /// good for the restored server too, which gives its connections the numbers that they had.
    ///
    /// # Errors
    ///
    /// [`SaveError`]; what was appended is of no use then.
    pub fn save(&self, out: &mut Vec<u8>, host: &Host<'_>) -> Result<(), SaveError> {
        let mut head = Vec::new();
        let mut tail = Vec::new();
        if let Some(global) = host.global {
            emit(&mut head, &Record::Global(global))?;
        }
        self.save_server(&mut head)?;
        let mut connections: Vec<_> = host.connections.iter().collect();
        connections.sort_by_key(|known| known.conn);
        connections.dedup_by_key(|known| known.conn);
        let mut transactions = Vec::new();
        for (conn_id, known) in (1..).zip(connections) {
            let connection = self
                .connections
                .get(&known.conn)
                .ok_or(SaveError::NoConnection(known.conn))?;
            let watches = save_connection(&mut head, conn_id, connection, known)?;
            save_watches(&mut head, conn_id, &watches)?;
            self.save_transactions(&mut transactions, conn_id, connection)?;
        }
        self.save_special(&mut tail)?;
        self.save_domains(&mut tail, |domid| {
            host.connections
                .iter()
                .any(|known| matches!(known.by, Conn::Ring { domid: of, .. } if of == domid))
        })?;
        tail.append(&mut transactions);
        Checkpoint {
            head,
            tree: self.store.tree.clone(),
            tail,
        }
        .write(out)
    }

    /// The state as a journal keeps it: without connections, but with the watches of those that have a ring.
    ///
    /// # Errors
    ///
    /// [`SaveError::Format`].
    pub fn checkpoint(&self) -> Result<Checkpoint, SaveError> {
        let mut head = Vec::new();
        let mut tail = Vec::new();
        self.save_server(&mut head)?;
        let rings: BTreeMap<DomId, ConnId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_ring())
            .map(|(conn, connection)| (connection.actor.domid, *conn))
            .collect();
        for (domid, conn) in rings {
            self.save_ring(&mut head, domid)?;
            if let Some(connection) = self.connections.get(&conn) {
                save_watches(&mut head, ring_id(domid), &connection.watches_in_order())?;
            }
        }
        self.save_special(&mut tail)?;
        self.save_domains(&mut tail, |_| false)?;
        Ok(Checkpoint {
            head,
            tree: self.store.tree.clone(),
            tail,
        })
    }

    /// A ring of which nothing is known but whose it is.
    pub(super) fn save_ring(&self, out: &mut Vec<u8>, domid: DomId) -> Result<(), EmitError> {
        let domain = self.domains.get(&domid);
        let ring = domain.and_then(|domain| domain.ring);
        let record = Record::Connection(ConnectionData {
            conn_id: ring_id(domid),
            conn: Conn::Ring {
                domid,
                target: domain.and_then(|domain| domain.target),
                port: ring.map_or(cantle_abi::Port(0), |(_, port)| port),
            },
            input: &[],
            output: &[],
            begun: 0,
            unique_id: None,
        });
        emit(out, &record)
    }

    /// What belongs to no node, domain or connection.
    pub(super) fn save_server(&self, out: &mut Vec<u8>) -> Result<(), EmitError> {
        self.save_numbers(out)?;
        self.save_quotas(out)
    }

    pub(super) fn save_quotas(&self, out: &mut Vec<u8>) -> Result<(), EmitError> {
        let defaults = &self.quotas.defaults;
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let record = Record::GlobalQuota(GlobalQuotaData {
            domain: quotas(defaults),
            global: vec![
                (REPLY_BYTES.as_bytes(), size(defaults.reply_bytes)),
                (EVENT_BYTES.as_bytes(), size(defaults.event_bytes)),
            ],
        });
        emit(out, &record)
    }

    /// The numbers that are given next, and who is privileged.
    pub(super) fn save_numbers(&self, out: &mut Vec<u8>) -> Result<(), EmitError> {
        let mut privileged: Vec<DomId> = self.privileged.iter().copied().collect();
        privileged.sort_unstable();
        let state = ServerState {
            generation: self.store.generation(),
            next_conn: self.next_conn,
            privileged,
        };
        emit(out, &Record::Own(Own::Server(state)))
    }

    /// The special names travel as nodes.
    pub(super) fn save_special(&self, out: &mut Vec<u8>) -> Result<(), EmitError> {
        for name in [RELEASE_DOMAIN, INTRODUCE_DOMAIN] {
            if let Some(perms) = self.special.get(name) {
                let mut list = Vec::new();
                node_perms(perms, &mut list);
                let record = Record::Node(NodeData {
                    pending: None,
                    perms: list,
                    path: name.as_bytes(),
                    value: &[],
                });
                emit(out, &record)?;
            }
        }
        Ok(())
    }

    fn save_domains(
        &self,
        out: &mut Vec<u8>,
        has_ring: impl Fn(DomId) -> bool,
    ) -> Result<(), EmitError> {
        let known = self.domains.keys().chain(self.quotas.budgets.keys());
        let mut known: Vec<DomId> = known.copied().collect();
        known.sort_unstable();
        known.dedup();
        for domid in known {
            self.save_domain_state(out, domid, has_ring(domid))?;
        }
        Ok(())
    }

    /// A domain. xenstored stops at a `DOMAIN_DATA` of a domain that it has not heard of before, by a ring's connection: for those without
    /// there is one only where it says something.
    pub(super) fn save_domain_state(
        &self,
        out: &mut Vec<u8>,
        domid: DomId,
        has_ring: bool,
    ) -> Result<(), EmitError> {
        let nothing = Domain::default();
        let domain = self.domains.get(&domid).unwrap_or(&nothing);
        let budget = self.quotas.budgets.get(&domid);
        let quotas_set = budget.is_some_and(|budget| budget.special);
        let own = budget
            .map(|budget| &*budget.limits)
            .filter(|limits| quotas_set || **limits != *self.quotas.defaults);
        if has_ring || own.is_some() || domain.features.is_some() {
            let record = Record::Domain(DomainData {
                domid,
                features: self.features(domid),
                quotas: own.map(quotas).unwrap_or_default(),
            });
            emit(out, &record)?;
        }
        let state = DomainState {
            domid,
            introduced: domain.introduced,
            shutdown: domain.shutdown,
            quotas: quotas_set,
            target: domain.target,
            ring: domain.ring,
        };
        emit(out, &Record::Own(Own::Domain(state)))
    }

    fn save_transactions(
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
            self.save_pending(out, conn_id, tx_id, tx, connection)?;
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

    /// The transaction as the document has it, for others.
    fn save_pending(
        &self,
        out: &mut Vec<u8>,
        conn_id: u32,
        tx_id: u32,
        tx: &Transaction,
        connection: &Connection,
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
        let Some(tree) = self.store.as_if_committed(tx, actor, &allowance) else {
            // Nobody has this value: whoever compares finds that it has changed.
            let root = self.store.tree.root();
            let other = [root.value(), b"?"].concat();
            let mut record = plain("/", Some(&root), pending(true, false));
            record.value = &other;
            return emit(out, &Record::Node(record));
        };
        let mut touched = BTreeMap::new();
        for Told { path, asked, .. } in tx.told() {
            if matches!(asked, Asked::Query(_)) {
                touched.insert(path.into_string(), (true, false, false));
            }
        }
        differences(&self.store.tree, &tree, |path, difference| {
            let entry = touched.entry(path.to_owned()).or_default();
            match difference {
                Difference::Gone => entry.2 = true,
                Difference::Set(_) => entry.1 = true,
            }
        });
        // In the order of paths, so parents come first.
        for (path, (read, written, gone)) in &touched {
            let (read, written) = (*read && !gone, *written && !gone);
            // What was only read may be gone with a node above it: it was read as it is for all.
            let seen = if written { &tree } else { &self.store.tree };
            let node = seen.get(path).filter(|_| !gone);
            emit(
                out,
                &Record::Node(plain(path, node.as_ref(), pending(read, written))),
            )?;
        }
        Ok(())
    }
}

/// The number that a ring's connection has in a journal.
pub(super) fn ring_id(domid: DomId) -> u32 {
    u32::from(domid.0) + 1
}

/// Writes a connection; the numbers of its watches in the order in which they are to be written.
fn save_connection(
    out: &mut Vec<u8>,
    conn_id: u32,
    connection: &Connection,
    known: &HostConn<'_>,
) -> Result<Vec<Arc<Watch>>, EmitError> {
    let watches = connection.watches_in_order();
    let output = connection.outbox.save();
    let input = [&connection.partial, known.unfed].concat();
    let (input, more) = input.split_at(input.len().min(usize::from(u16::MAX)));
    let conn = match known.by {
        Conn::Ring { domid, port, .. } => Conn::Ring {
            domid,
            target: connection.actor.target,
            port,
        },
        socket @ Conn::Socket { .. } => socket,
    };
    emit(
        out,
        &Record::Connection(ConnectionData {
            conn_id,
            conn,
            input,
            output: &output.bytes,
            begun: u16::try_from(output.begun).map_err(|_| EmitError::TooLong("out-resp-len"))?,
            unique_id: known.unique_id,
        }),
    )?;
    let place = |(id, condensed): (u64, bool)| {
        let at = watches.binary_search_by_key(&id, |watch| watch.id).ok()?;
        let at = u32::try_from(at + 1).ok()?;
        Some(
            at | if condensed {
                crate::state::own::CONDENSED
            } else {
                0
            },
        )
    };
    let state = ConnectionState {
        conn_id,
        id: known.conn.0,
        next_tx: connection.next_tx,
        privileged: connection.actor.privileged,
        events: output
            .events
            .into_iter()
            .map(|event| event.and_then(place).unwrap_or(0))
            .collect(),
        input: more,
    };
    emit(out, &Record::Own(Own::Connection(state)))?;
    Ok(watches)
}

fn save_watches(out: &mut Vec<u8>, conn_id: u32, watches: &[Arc<Watch>]) -> Result<(), EmitError> {
    for watch in watches {
        let record = Record::Watch(WatchData {
            conn_id,
            path: watch.given().as_bytes(),
            token: &watch.token,
            depth: watch.stream_depth(),
        });
        emit(out, &record)?;
    }
    Ok(())
}

fn quotas(limits: &Limits) -> Vec<Quota<'static>> {
    limits
        .named()
        .map(|(name, value)| (name.as_bytes(), value))
        .collect()
}

fn emit_node(
    out: &mut Vec<u8>,
    path: &str,
    node: &NodeRef<'_>,
    scratch: &mut Vec<NodePerm>,
) -> Result<(), SaveError> {
    node_perms(node.perms(), scratch);
    let record = Record::Node(NodeData {
        pending: None,
        perms: core::mem::take(scratch),
        path: path.as_bytes(),
        value: node.value(),
    });
    emit(out, &record)?;
    if let Record::Node(data) = record {
        *scratch = data.perms;
    }
    Ok(())
}

/// Permissions as the format has them.
pub(super) fn node_perms(perms: &Perms, list: &mut Vec<NodePerm>) {
    let entry = |(domid, access): (DomId, Access)| NodePerm {
        access,
        stale: false,
        domid,
    };
    list.clear();
    list.push(entry((perms.owner, perms.others)));
    list.extend(perms.listed.iter().copied().map(entry));
}

/// A node, or that there is none.
pub(super) fn plain<'a>(
    path: &'a str,
    node: Option<&NodeRef<'a>>,
    pending: Option<Pending>,
) -> NodeData<'a> {
    let mut perms = Vec::new();
    if let Some(node) = node {
        node_perms(node.perms(), &mut perms);
    }
    NodeData {
        pending,
        perms,
        path: path.as_bytes(),
        value: node.map_or(&[], |node| node.value()),
    }
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
