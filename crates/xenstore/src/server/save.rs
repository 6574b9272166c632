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

mod connections;
mod guest;
mod transactions;

use std::collections::BTreeMap;

use cantle_abi::DomId;

use super::domains::{Domain, INTRODUCE_DOMAIN, RELEASE_DOMAIN};
use super::{ConnId, Server};
use crate::limits::Limits;
use crate::state::own::{DomainState, Own, ServerState};
use crate::state::{
    Conn, ConnectionData, DomainData, EmitError, GlobalData, GlobalQuotaData, NodeData, NodePerm,
    Pending, Quota, Record, emit, emit_header,
};
use crate::store::{NodeRef, Tree};
use crate::{Access, Perms};
use connections::{save_connection, save_watches};

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
}

/// The number that a ring's connection has in a journal.
pub(super) fn ring_id(domid: DomId) -> u32 {
    u32::from(domid.0) + 1
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
