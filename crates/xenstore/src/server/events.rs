//! What watchers are told, and which of them.
//!
//! An event of a watch is queued once for each change that it is about, in the order of the changes, and only where the
//! watcher may know of the change: it may read the node as it is or as it was, or list the directory that the node came into
//! or went from. Events cost two counted pointers each; they become bytes when they are sent.

use std::collections::HashSet;
use std::sync::Arc;

use cantle_abi::DomId;

use super::log::{self, Log, Switch};
use super::quota::{event_room, settle};
use super::watches::{Watch, WatchIndex};
use super::{ConnId, ConnMap, Connection, Server};
use crate::path::{components, prefixes};
use crate::quota::Quotas;
use crate::store::{Actor, Change, Store, Tree, descend};

/// Where events go: all connections, the list of those with something new, and who pays.
struct Sink<'a> {
    connections: &'a mut ConnMap<Connection>,
    ready: &'a mut Vec<ConnId>,
    quotas: &'a mut Quotas,
    store: &'a Store,
    /// See [`Fed::work`](super::Fed::work): an event is as much work as a small request.
    work: &'a mut u64,
    log: Log,
    /// The watches and paths that have been told, where several changes happen at once: nobody can see what was between.
    told: Option<HashSet<(u64, Arc<str>)>>,
}

impl Sink<'_> {
    /// Queues an event where the watcher may know of it, within the bytes that it may leave unread.
    fn send(&mut self, watch: &Arc<Watch>, path: &Arc<str>, may: impl FnOnce(Actor) -> bool) {
        let Some(connection) = self.connections.get_mut(&watch.conn) else {
            return;
        };
        if !may(connection.actor) {
            return;
        }
        if let Some(told) = &mut self.told
            && !told.insert((watch.id, Arc::clone(path)))
        {
            return;
        }
        *self.work = self.work.saturating_add(1);
        let room = event_room(self.quotas, self.store, connection);
        if connection.outbox.event(watch, path, room) {
            settle(self.quotas, connection);
            if self.log.has(Switch::Watch) {
                log::event(connection.actor.domid, path, &watch.token);
            }
            if !core::mem::replace(&mut connection.ready, true) {
                self.ready.push(watch.conn);
            }
        }
    }
}

impl Server {
    /// The watches, and where their events go; `told` where each path is to be told once.
    fn sink(&mut self, told: Option<HashSet<(u64, Arc<str>)>>) -> (&WatchIndex, Sink<'_>) {
        let sink = Sink {
            connections: &mut self.connections,
            ready: &mut self.ready,
            quotas: &mut self.quotas,
            store: &self.store,
            work: &mut self.work,
            log: self.log,
            told,
        };
        (&self.watches, sink)
    }

    /// Queues the events of changes. Where there are several they happen at once: each watch is told of a path once.
    pub(super) fn fire(&mut self, changes: &[Change]) {
        self.fire_net(changes, None);
    }

    /// Queues the events of what a transaction has changed since `before`: of nothing that came and went within it, and by
    /// none of the permissions that were only set on the way.
    pub(super) fn fire_committed(&mut self, changes: &[Change], before: &Tree) {
        // One change alone is what it comes to.
        self.fire_net(changes, Some(before).filter(|_| changes.len() > 1));
    }

    fn fire_net(&mut self, changes: &[Change], before: Option<&Tree>) {
        let steps: u64 = changes.iter().map(|change| u64::from(change.steps)).sum();
        let others = changes.len().saturating_sub(1) as u64;
        self.work = self.work.saturating_add(others).saturating_add(steps);
        if self.watches.is_empty() {
            return;
        }
        let (watches, mut sink) = self.sink((changes.len() > 1).then(HashSet::new));
        for change in changes {
            if !watches.concern(&change.path, change.removed.is_some()) {
                continue;
            }
            match before {
                None => fire(watches, &mut sink, change),
                Some(before) => {
                    if let Some(net) = change.net(before, &sink.store.tree) {
                        fire(watches, &mut sink, &net);
                    }
                }
            }
        }
    }

    /// Queues the events of a special name for what happened to a domain: under the name for those who watch it, under the
    /// name and the domain's number for those who watch just that, or the name with a depth.
    pub(super) fn fire_special(&mut self, name: &str, domid: DomId) {
        let Some(perms) = self.special.get(name).map(Arc::clone) else {
            return;
        };
        let (watches, mut sink) = self.sink(None);
        let may = |actor: Actor| actor.may_read(&perms);
        let numbered: Arc<str> = format!("{name}/{domid}").into();
        for watch in watches.at(name) {
            match watch.depth {
                None => sink.send(watch, &watch.path, may),
                Some(0) => {}
                Some(_) => sink.send(watch, &numbered, may),
            }
        }
        for watch in watches.at(&numbered) {
            sink.send(watch, &numbered, may);
        }
    }

    /// Queues a new watch's first event, which tells nothing.
    pub(super) fn fire_first(&mut self, watch: &Arc<Watch>) {
        let (_, mut sink) = self.sink(None);
        sink.send(watch, &watch.path, |_| true);
    }
}

/// Queues a change's events: those of the watches on the path and above, and where a subtree went, those of the watches on
/// exactly the nodes that were in it.
///
/// A watch that a depth keeps from the node itself is told of the ancestor nearest to it that the same change made, if any:
/// else a watched node could come without a word.
fn fire(watches: &WatchIndex, sink: &mut Sink<'_>, change: &Change) {
    let level = components(&change.path).count();
    for (above, watch) in watches.covering(&change.path) {
        let visible = |actor| change.visible_to(actor);
        match watch.beyond(level - above) {
            0 => sink.send(watch, &change.path, visible),
            beyond if beyond < change.made => {
                if let Some(made) = prefixes(&change.path).nth(level - beyond) {
                    sink.send(watch, &made.into(), visible);
                }
            }
            _ => {}
        }
    }
    let Some(top) = &change.removed else {
        return;
    };
    let top = top.seen();
    for (path, list) in watches.below(&change.path) {
        let within = path.get(change.path.len()..).unwrap_or_default();
        let Some((parent, node)) = descend(&top, within) else {
            continue;
        };
        for watch in list {
            sink.send(watch, path, |actor| {
                actor.may_read(node.perms()) || actor.may_read(parent.perms())
            });
        }
    }
}
