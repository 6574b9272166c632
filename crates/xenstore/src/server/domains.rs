//! The domains: which are known, what each uses, and what happens when one comes or goes.

use std::sync::Arc;

use cantle_abi::{DomId, Errno};

use super::stats::Counters;
use super::{ConnId, Server};
use crate::store::{Actor, Change};
use crate::{Access, Perms};

/// What is known of a domain. It dies with the domain's introduction, or with its last connection.
#[derive(Debug, Default)]
pub(super) struct Domain {
    pub(super) introduced: bool,
    /// The domain whose rights it has beside its own.
    pub(super) target: Option<DomId>,
    /// What was counted for connections that have ended.
    pub(super) past: Counters,
}

/// The two names that are watched and are no nodes.
pub(super) const INTRODUCE_DOMAIN: &str = "@introduceDomain";
/// See [`INTRODUCE_DOMAIN`].
pub(super) const RELEASE_DOMAIN: &str = "@releaseDomain";

/// Who may learn of domains that come and go.
#[derive(Debug)]
pub(super) struct SpecialPerms {
    introduce: Arc<Perms>,
    release: Arc<Perms>,
}

impl Default for SpecialPerms {
    fn default() -> Self {
        let private = Arc::new(Perms::new(DomId::DOM0, Access::None));
        Self {
            introduce: Arc::clone(&private),
            release: private,
        }
    }
}

impl SpecialPerms {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Perms>> {
        match name {
            INTRODUCE_DOMAIN => Some(&self.introduce),
            RELEASE_DOMAIN => Some(&self.release),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Arc<Perms>> {
        match name {
            INTRODUCE_DOMAIN => Some(&mut self.introduce),
            RELEASE_DOMAIN => Some(&mut self.release),
            _ => None,
        }
    }

    fn forget(&mut self, dead: DomId) {
        for perms in [&mut self.introduce, &mut self.release] {
            let perms = Arc::make_mut(perms);
            perms.listed.retain(|(listed, _)| *listed != dead);
            if perms.owner == dead {
                *perms = Perms::new(DomId::DOM0, Access::None);
            }
        }
    }
}

impl Server {
    /// Makes a domain known, and tells those who watch `@introduceDomain`; whether it was new.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number that is no domain's.
    pub fn introduce(&mut self, domid: DomId) -> Result<bool, Errno> {
        if !domid.is_real() {
            return Err(Errno::EINVAL);
        }
        if core::mem::replace(&mut self.domain(domid).introduced, true) {
            return Ok(false);
        }
        self.fire_special(INTRODUCE_DOMAIN);
        Ok(true)
    }

    /// A domain is gone: its connections end, its nodes and all mention of it go, its quotas are free again, and, if it was
    /// known, those who watch `@releaseDomain` are told. The next domain of that number begins with nothing.
    ///
    /// # Errors
    ///
    /// `EINVAL` for domain 0.
    pub fn release(&mut self, domid: DomId) -> Result<(), Errno> {
        if domid == DomId::DOM0 {
            return Err(Errno::EINVAL);
        }
        let known = self.is_introduced(domid);
        let ended: Vec<ConnId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.actor.domid == domid)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in ended {
            self.disconnect(conn);
        }
        self.domains.remove(&domid);
        self.quotas.budgets.remove(&domid);
        self.privileged.remove(&domid);
        self.special.forget(domid);
        for stub in self.domains.values_mut() {
            stub.target = stub.target.filter(|target| *target != domid);
        }
        for connection in self.connections.values_mut() {
            let actor = &mut connection.actor;
            actor.target = actor.target.filter(|target| *target != domid);
            for tx in connection.transactions.values_mut() {
                tx.forget(domid);
            }
        }
        for change in self.store.forget(domid) {
            self.fire(&change);
        }
        if known {
            self.fire_special(RELEASE_DOMAIN);
        }
        Ok(())
    }

    /// Gives a domain the rights of another beside its own, until either is gone: a stub domain works for the domain whose
    /// devices it emulates. It does what the other owns like an owner, and what the other is permitted elsewhere; what it makes
    /// is its own, and its own quota pays.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number that is no domain's or domain 0's, `ENOENT` where one of them is not known.
    pub fn target(&mut self, stub: DomId, target: DomId) -> Result<(), Errno> {
        for domid in [stub, target] {
            if domid == DomId::DOM0 || !domid.is_real() {
                return Err(Errno::EINVAL);
            }
            if !self.is_introduced(domid) {
                return Err(Errno::ENOENT);
            }
        }
        self.domain(stub).target = Some(target);
        for connection in self.connections.values_mut() {
            if connection.actor.domid == stub {
                connection.actor.target = Some(target);
            }
        }
        Ok(())
    }

    /// Makes a domain privileged until it is gone, as domain 0 is: bound by no permission and no quota, and allowed to manage
    /// others. It holds for connections that it has and for those to come.
    pub fn set_privileged(&mut self, domid: DomId) {
        self.privileged.insert(domid);
        self.quotas.budget(domid).exempt = true;
        for connection in self.connections.values_mut() {
            connection.actor.privileged |= connection.actor.domid == domid;
        }
    }

    /// Whether a domain is known.
    #[must_use]
    pub fn is_introduced(&self, domid: DomId) -> bool {
        self.domains
            .get(&domid)
            .is_some_and(|domain| domain.introduced)
    }

    pub(super) fn domain(&mut self, domid: DomId) -> &mut Domain {
        self.domains.entry(domid).or_default()
    }

    /// Drops what is known of a domain that is neither introduced nor connected, and for which nobody has set anything.
    /// Domain 0 stays: its connections come and go, and what they have done is worth knowing.
    pub(super) fn tidy(&mut self, domid: DomId) {
        let known = self
            .domains
            .get(&domid)
            .is_some_and(|domain| domain.introduced || domain.target.is_some());
        let used = self
            .quotas
            .budgets
            .get(&domid)
            .is_some_and(|budget| budget.connections > 0 || budget.special);
        if !known && !used && domid != DomId::DOM0 && !self.privileged.contains(&domid) {
            self.domains.remove(&domid);
            self.quotas.budgets.remove(&domid);
        }
    }

    /// Queues a change's events: those of the watches on the path and above, and where a subtree went, those of the
    /// watches on exactly the nodes that were in it.
    pub(super) fn fire(&mut self, change: &Change) {
        if self.watches.is_empty() {
            return;
        }
        let mut hits: Vec<_> = self
            .watches
            .covering(&change.path)
            .filter(|watch| {
                visible(&self.connections, watch.conn, |actor| {
                    change.visible_to(actor)
                })
            })
            .map(|watch| (Arc::clone(watch), Arc::clone(&change.path)))
            .collect();
        if let Some(top) = &change.removed {
            for (path, node) in crate::store::walk(top.seen(), &change.path).skip(1) {
                let exact = self.watches.at(&path);
                if exact.is_empty() {
                    continue;
                }
                let path: Arc<str> = path.into();
                hits.extend(
                    exact
                        .iter()
                        .filter(|watch| {
                            visible(&self.connections, watch.conn, |actor| {
                                actor.may_read(node.perms())
                            })
                        })
                        .map(|watch| (Arc::clone(watch), Arc::clone(&path))),
                );
            }
        }
        self.queue(hits);
    }

    fn fire_special(&mut self, name: &str) {
        let Some(perms) = self.special.get(name).map(Arc::clone) else {
            return;
        };
        let name: Arc<str> = name.into();
        let hits = self
            .watches
            .at(&name)
            .iter()
            .filter(|watch| {
                visible(&self.connections, watch.conn, |actor| {
                    actor.may_read(&perms)
                })
            })
            .map(|watch| (Arc::clone(watch), Arc::clone(&name)))
            .collect();
        self.queue(hits);
    }

    /// Queues an event, within the bytes that its watcher may leave unread.
    pub(super) fn tell(&mut self, watch: &Arc<super::watches::Watch>, path: &Arc<str>) {
        let room = self.event_room(watch.conn);
        if let Some(connection) = self.connections.get_mut(&watch.conn)
            && connection.outbox.event(watch, path, room)
        {
            self.mark_ready(watch.conn);
            self.settle(watch.conn);
        }
    }

    fn queue(&mut self, hits: Vec<(Arc<super::watches::Watch>, Arc<str>)>) {
        for (watch, path) in hits {
            self.tell(&watch, &path);
        }
    }
}

fn visible(
    connections: &super::ConnMap<super::Connection>,
    conn: ConnId,
    may: impl FnOnce(Actor) -> bool,
) -> bool {
    connections
        .get(&conn)
        .is_some_and(|connection| may(connection.actor))
}
