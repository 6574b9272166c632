//! Making a server from what a migration stream says.

use std::collections::HashMap;
use std::sync::Arc;

use cantle_abi::{DomId, Errno};

use super::connection::ConnKind;
use super::features::FEATURES;
use super::load::{
    Loaded, LoadedConnection, LoadedDomain, LoadedTransaction, RestoreError, Restored,
    RestoredConn, Wrong, node_path, perms_of, set_quotas,
};
use super::outbox::Outbox;
use super::watches::Watch;
use super::{ConnId, Server};
use crate::path::{Resolved, resolve, special};
use crate::state::own::{CONDENSED, Op, Step, TransactionState};
use crate::state::{Conn, ConnectionData, NodeData, WatchData};
use crate::store::{Actor, Asked, Edit, Query, Store, Told, Tree};
use crate::wire::Message;
use crate::{Limits, Perms};

impl Server {
    /// A server from a migration stream: its own (see [`save`](Self::save)), with which it goes on to the byte, or another
    /// implementation's.
    ///
    /// # Errors
    ///
    /// [`RestoreError`], with the place in the stream.
    pub fn restore(stream: &[u8]) -> Result<Restored, RestoreError> {
        let mut loaded = Loaded::read(stream)?;
        let mut server = Self::with_limits(loaded.limits.clone());
        let generation = loaded.generation();
        let nodes = core::mem::replace(&mut loaded.nodes, crate::store::Builder::new());
        let perms = core::mem::take(&mut loaded.perms);
        server.store = Store::with_tree(nodes.finish(), generation, perms.into_values());
        for (name, perms) in loaded.special.drain(..) {
            if let Some(known) = server.special.get_mut(name) {
                *known = Arc::new(perms);
            }
        }
        if let Some(state) = &loaded.server {
            server.next_conn = state.next_conn.max(1);
            let privileged = state.privileged.iter();
            privileged.for_each(|domid| server.set_privileged(*domid));
        }
        for connection in &loaded.connections {
            // Its domain is known, whatever else is said of it.
            if let Conn::Ring { domid, .. } = connection.data.conn {
                loaded.domains.entry(domid).or_default();
            }
        }
        for (domid, domain) in &loaded.domains {
            server.load_domain_state(*domid, domain, &loaded);
        }
        let mut connections = Vec::with_capacity(loaded.connections.len());
        // What transactions have changed is changed again below, with the numbers of changes that were before this one.
        let logs = loaded
            .connections
            .iter()
            .flat_map(|connection| connection.transactions.values());
        let edits: usize = logs
            .map(|tx| tx.pending.len() + tx.exact.as_ref().map_or(0, |exact| exact.log.len()))
            .sum();
        server.store.rewind(generation.saturating_sub(edits as u64));
        for connection in &loaded.connections {
            connections.push(server.load_connection(connection)?);
        }
        server.store.rewind(generation);
        Ok(Restored {
            server,
            connections,
            global: loaded.global,
            len: loaded.len,
        })
    }

    fn load_domain_state(&mut self, domid: DomId, loaded: &LoadedDomain<'_>, all: &Loaded<'_>) {
        let ring = all
            .connections
            .iter()
            .find_map(|connection| match connection.data.conn {
                Conn::Ring {
                    domid: of, target, ..
                } if of == domid => Some(target),
                _ => None,
            });
        if let Some(data) = &loaded.data {
            if !data.quotas.is_empty() {
                let mut limits = Limits::clone(&self.quotas.defaults);
                set_quotas(&mut limits, data.quotas.iter());
                self.quotas.budget(domid).limits = Arc::new(limits);
            }
            if all.version >= 2 {
                self.load_features(domid, data.features);
            }
        }
        let quotas = loaded
            .data
            .as_ref()
            .is_some_and(|data| !data.quotas.is_empty());
        if loaded.own.as_ref().map_or(quotas, |own| own.quotas) {
            self.quotas.budget(domid).special = true;
        }
        let domain = self.domain(domid);
        match &loaded.own {
            Some(own) => {
                domain.introduced = own.introduced;
                domain.shutdown = own.shutdown;
                domain.target = own.target;
                domain.ring = own.ring;
            }
            None => {
                domain.introduced |= ring.is_some();
                domain.target = ring.flatten();
            }
        }
        self.tidy(domid);
    }

    /// What it was offered, as far as there is such a thing here.
    pub(super) fn load_features(&mut self, domid: DomId, features: u32) {
        let offered = features & FEATURES;
        self.domain(domid).features = (offered != FEATURES).then_some(offered);
    }

    pub(super) fn load_connection(
        &mut self,
        loaded: &LoadedConnection<'_>,
    ) -> Result<RestoredConn, RestoreError> {
        let wrong = |offset| move |wrong| RestoreError::Record { offset, wrong };
        let conn = self.open_connection(loaded).map_err(wrong(loaded.offset))?;
        let mut watches = Vec::with_capacity(loaded.watches.len());
        for (offset, data) in &loaded.watches {
            watches.push(self.load_watch(conn, data).map_err(wrong(*offset))?);
        }
        let events = loaded.own.as_ref().map_or(&[][..], |own| &own.events);
        let outbox = output(&loaded.data, events, &watches).map_err(wrong(loaded.offset))?;
        for (tx_id, transaction) in &loaded.transactions {
            self.load_transaction(conn, *tx_id, transaction)
                .map_err(wrong(transaction.offset))?;
        }
        let more = loaded.own.as_ref().map_or(&[][..], |own| own.input);
        let mut unfed = [loaded.data.input, more].concat();
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.outbox = outbox;
            // A message's beginning is the server's; whole messages are for the host to feed when it is ready for answers.
            if matches!(Message::parse(&unfed), Ok(None)) {
                connection.partial = core::mem::take(&mut unfed);
            }
        }
        if self.has_output(conn) {
            self.mark_ready(conn);
        }
        self.settle(conn);
        Ok(RestoredConn {
            conn,
            by: loaded.data.conn,
            unfed,
            unique_id: loaded.data.unique_id,
        })
    }

    fn open_connection(&mut self, loaded: &LoadedConnection<'_>) -> Result<ConnId, Wrong> {
        let (kind, domid) = match loaded.data.conn {
            Conn::Ring { domid, .. } => (ConnKind::Ring, domid),
            Conn::Socket { .. } => (ConnKind::Socket, DomId::DOM0),
        };
        let own = loaded.own.as_ref();
        let id = own.map_or(u64::from(loaded.data.conn_id), |own| own.id);
        if self.connections.contains_key(&ConnId(id)) {
            return Err(Wrong::Twice);
        }
        let privileged = own.map_or(domid == DomId::DOM0, |own| own.privileged);
        let next = self.next_conn;
        self.next_conn = id;
        let conn = self.connect_as(kind, domid, privileged);
        self.next_conn = next.max(id.saturating_add(1));
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.next_tx = own.map_or(1, |own| own.next_tx);
        }
        Ok(conn)
    }

    /// Sets a watch without its first event.
    pub(super) fn load_watch(
        &mut self,
        conn: ConnId,
        data: &WatchData<'_>,
    ) -> Result<Arc<Watch>, Wrong> {
        let connection = self.connections.get(&conn).ok_or(Wrong::Unknown)?;
        let given = |_: Errno| Wrong::Path;
        let (path, hidden): (Arc<str>, usize) = match special(data.path).map_err(given)? {
            Some(name) => (name.into(), 0),
            None => {
                let Resolved { path, relative } =
                    resolve(data.path, &connection.home).map_err(given)?;
                let hidden = if relative {
                    connection.home.len() + 1
                } else {
                    0
                };
                (path.into(), hidden)
            }
        };
        if data.token.len() > super::requests::TOKEN_MAX {
            return Err(Wrong::Token);
        }
        let key = (Arc::clone(&path), Box::from(data.token));
        if connection.watches.contains_key(&key) {
            return Err(Wrong::Twice);
        }
        let watch = Arc::new(Watch {
            id: self.next_watch,
            conn,
            path,
            token: data.token.into(),
            hidden,
            depth: data.depth,
        });
        self.next_watch += 1;
        self.quotas.budget(connection.actor.domid).watches += 1;
        self.watches.insert(Arc::clone(&watch));
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.watch_bytes += watch.bytes();
            connection.watches.insert(key, Arc::clone(&watch));
        }
        Ok(watch)
    }

    fn load_transaction(
        &mut self,
        conn: ConnId,
        tx_id: u32,
        loaded: &LoadedTransaction<'_>,
    ) -> Result<(), Wrong> {
        let actor = self.connections.get(&conn).ok_or(Wrong::Unknown)?.actor;
        let (base, doomed, log) = match &loaded.exact {
            Some(exact) => (self.base_of(exact)?, exact.doomed, steps(&exact.log)?),
            None => {
                let (log, doomed) = told_by_nodes(&self.store.tree, actor, &loaded.pending)?;
                (self.store.tree.clone(), doomed, log)
            }
        };
        let free = Actor {
            privileged: true,
            ..actor
        };
        let store = &mut self.store;
        let allowance = self.quotas.allowance(free);
        let tx = match store.reopen(base, doomed, actor, log, &allowance) {
            // Another implementation's may have done what cannot be done here, or not any more: it begins again.
            Err(_) if loaded.exact.is_none() => {
                let tree = store.tree.clone();
                store.reopen(tree, true, actor, Vec::new(), &allowance)
            }
            reopened => reopened,
        };
        let tx = tx.map_err(|_| Wrong::Log)?;
        let bytes = tx.bytes(actor.domid);
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.transaction_bytes += bytes;
            connection.transactions.insert(tx_id, tx);
        }
        self.quotas.budget(actor.domid).transactions += 1;
        Ok(())
    }

    /// The tree that a transaction began with.
    fn base_of(&mut self, exact: &TransactionState<'_>) -> Result<Tree, Wrong> {
        let mut changes = Vec::with_capacity(exact.base.len());
        for node in &exact.base {
            changes.push((node_path(node.path)?, node.value, perms_of(&node.perms)));
        }
        Ok(self.store.tree_with(changes))
    }
}

/// What waits to be sent. The host's stream tells of an event whose it is, so that it can go when its watch goes.
fn output(
    data: &ConnectionData<'_>,
    events: &[u32],
    watches: &[Arc<Watch>],
) -> Result<Outbox, Wrong> {
    let watch_of = |number: usize| {
        let event = events.get(number).copied().unwrap_or(0);
        let place = (event & !CONDENSED).checked_sub(1)?;
        let watch = watches.get(usize::try_from(place).ok()?)?;
        Some((Arc::clone(watch), event & CONDENSED != 0))
    };
    Outbox::restore(data.output, usize::from(data.begun), watch_of).ok_or(Wrong::Output)
}

fn steps(log: &[Step<'_>]) -> Result<Vec<Told>, Wrong> {
    log.iter()
        .map(|step| {
            let asked = match step.op {
                Op::Value => Asked::Query(Query::Value),
                Op::Children => Asked::Query(Query::Children),
                Op::Perms => Asked::Query(Query::Perms),
                Op::Write => Asked::Edit(Edit::Write(step.value.into())),
                Op::Mkdir => Asked::Edit(Edit::Mkdir),
                Op::Rm => Asked::Edit(Edit::Rm),
                Op::SetPerms => {
                    let perms = perms_of(&step.perms).ok_or(Wrong::NoOwner)?;
                    Asked::Edit(Edit::SetPerms(Arc::new(perms)))
                }
            };
            let answer = match step.errno {
                0 => Ok(()),
                errno => Err(Errno(i32::from(errno))),
            };
            Ok(told(node_path(step.path)?, asked, answer))
        })
        .collect()
}

fn told(path: &str, asked: Asked, answer: Result<(), Errno>) -> Told {
    Told {
        path: path.into(),
        asked,
        answer,
    }
}

/// A log from the document's form: nodes that were read are asked for again, as a whole, since nobody says what of them
/// was asked; nodes that were written are written. Whether the transaction can never commit, since it has read what is not there.
fn told_by_nodes(
    tree: &Tree,
    actor: Actor,
    nodes: &[NodeData<'_>],
) -> Result<(Vec<Told>, bool), Wrong> {
    let (mut log, mut doomed) = (Vec::new(), false);
    for node in nodes {
        let path = node_path(node.path)?;
        let access = node.pending.map(|pending| (pending.read, pending.written));
        let Some((true, written)) = access else {
            continue;
        };
        let same = match (tree.get(path), perms_of(&node.perms)) {
            // What it was before it was written is not said.
            (_, _) if written => true,
            (Some(seen), Some(perms)) => seen.value() == node.value && **seen.perms() == perms,
            (None, None) => true,
            _ => false,
        };
        doomed |= !same;
        let answer = actor.lookup(tree, path).map(drop);
        for query in [Query::Value, Query::Children, Query::Perms] {
            log.push(told(path, Asked::Query(query), answer));
        }
    }
    // The permissions of nodes that the transaction has made or changed.
    let mut changed: HashMap<&str, Perms> = HashMap::new();
    for node in nodes {
        let path = node_path(node.path)?;
        let access = node.pending.map(|pending| (pending.read, pending.written));
        match (access, perms_of(&node.perms)) {
            (Some((_, true)), Some(perms)) => {
                log.push(told(
                    path,
                    Asked::Edit(Edit::Write(node.value.into())),
                    Ok(()),
                ));
                if expected(tree, &changed, actor, path).as_ref() != Some(&perms) {
                    let set = Edit::SetPerms(Arc::new(perms.clone()));
                    log.push(told(path, Asked::Edit(set), Ok(())));
                }
                changed.insert(path, perms);
            }
            (Some((false, false)), _) => log.push(told(path, Asked::Edit(Edit::Rm), Ok(()))),
            _ => {}
        }
    }
    Ok((log, doomed))
}

/// The permissions that a node has once it is written: its own, or those that it gets when it is made.
fn expected(
    tree: &Tree,
    changed: &HashMap<&str, Perms>,
    actor: Actor,
    path: &str,
) -> Option<Perms> {
    let of = |path: &str| {
        let committed = || tree.get(path).map(|node| Perms::clone(node.perms()));
        changed.get(path).cloned().or_else(committed)
    };
    let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
    of(path).or_else(|| {
        let inherited = of(if parent.is_empty() { "/" } else { parent })?;
        Some(if actor.privileged {
            inherited
        } else {
            Perms {
                owner: actor.domid,
                ..inherited
            }
        })
    })
}
