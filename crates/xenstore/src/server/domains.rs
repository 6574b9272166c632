//! The domains: which are known, what each uses, and what happens when one comes or goes.

use std::sync::Arc;

use cantle_abi::{DomId, Errno, Gfn, Port};

use super::log::{self, Switch};
use super::stats::Counters;
use super::{ConnId, ConnKind, Server};
use crate::{Access, Perms};

/// What is known of a domain. It dies with the domain's introduction, or with its last connection.
#[derive(Debug, Default)]
pub(super) struct Domain {
    pub(super) introduced: bool,
    /// It is known to have shut down.
    pub(super) shutdown: bool,
    /// The domain whose rights it has beside its own.
    pub(super) target: Option<DomId>,
    /// Where its ring is, if it was introduced with one.
    pub(super) ring: Option<(Gfn, Port)>,
    /// What it is offered, where that is not everything.
    pub(super) features: Option<u32>,
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
        self.log_domain(domid, "introduced");
        self.note_domain(domid);
        self.fire_special(INTRODUCE_DOMAIN, domid);
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
        self.log_domain(domid, "released");
        self.forget_domain(domid);
        for connection in self.connections.values_mut() {
            for tx in connection.transactions.values_mut() {
                tx.forget(domid);
            }
        }
        self.note_domain(domid);
        let changes = self.store.forget(domid);
        self.fire(&changes);
        if known {
            self.fire_special(RELEASE_DOMAIN, domid);
        }
        Ok(())
    }

    /// Forgets what is known of a domain, but for what the store says of it: its connections end, and nobody has it for a
    /// target any more.
    pub(super) fn forget_domain(&mut self, domid: DomId) {
        let ended: Vec<ConnId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.actor.domid == domid)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in ended {
            self.disconnect(conn);
            // Whoever carries its bytes is to look, and to see that it is over.
            self.ready.push(conn);
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
        }
    }

    /// A domain has crashed or shut down, and is there still: tells those who watch `@releaseDomain`, once, until the domain is
    /// [resumed](Self::resume). Nothing for a domain that is not known. Returns whether they were told.
    pub fn domain_shutdown(&mut self, domid: DomId) -> bool {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return false;
        };
        if !domain.introduced || core::mem::replace(&mut domain.shutdown, true) {
            return false;
        }
        self.log_domain(domid, "shut down");
        self.note_domain(domid);
        self.fire_special(RELEASE_DOMAIN, domid);
        true
    }

    /// A domain that had shut down runs again, after a suspend for instance: its next shutdown is to be told.
    pub fn resume(&mut self, domid: DomId) {
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.shutdown = false;
            self.note_domain(domid);
        }
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
        self.set_domain_target(stub, Some(target));
        self.note_domain(stub);
        Ok(())
    }

    pub(super) fn set_domain_target(&mut self, stub: DomId, target: Option<DomId>) {
        self.domain(stub).target = target;
        for connection in self.connections.values_mut() {
            if connection.actor.domid == stub {
                connection.actor.target = target;
            }
        }
    }

    /// A domain's page and port, as it was introduced.
    pub(super) fn set_ring(&mut self, domid: DomId, gfn: Gfn, port: Port) {
        self.domain(domid).ring = Some((gfn, port));
        self.note_domain(domid);
    }

    /// Where a domain's page is and at which port it listens, if it was introduced with these: what a host needs to connect to it
    /// again.
    #[must_use]
    pub fn ring(&self, domid: DomId) -> Option<(Gfn, Port)> {
        self.domains.get(&domid).and_then(|domain| domain.ring)
    }

    /// The domains that are known, in order.
    #[must_use]
    pub fn introduced(&self) -> Vec<DomId> {
        let known = self.domains.iter().filter(|(_, domain)| domain.introduced);
        let mut known: Vec<DomId> = known.map(|(domid, _)| *domid).collect();
        known.sort_unstable();
        known
    }

    /// Makes a domain privileged until it is gone, as domain 0 is: bound by no permission and no quota, and allowed to manage
    /// others. It holds for connections that it has and for those to come.
    pub fn set_privileged(&mut self, domid: DomId) {
        self.privileged.insert(domid);
        self.quotas.budget(domid).exempt = true;
        for connection in self.connections.values_mut() {
            connection.actor.privileged |= connection.actor.domid == domid;
        }
        self.note_privileged();
    }

    fn log_domain(&self, domid: DomId, what: &'static str) {
        if self.log.has(Switch::Domain) {
            log::domain(domid, what);
        }
    }

    /// The connections that are rings', whoever serves them: after a restart, those that wait for their guests' VMMs.
    #[must_use]
    pub fn rings(&self) -> Vec<(DomId, ConnId)> {
        let rings = self.connections.iter();
        rings
            .filter(|(_, connection)| connection.kind == ConnKind::Ring)
            .map(|(conn, connection)| (connection.actor.domid, *conn))
            .collect()
    }

    /// Whether a domain is known.
    #[must_use]
    pub fn is_introduced(&self, domid: DomId) -> bool {
        self.domains
            .get(&domid)
            .is_some_and(|domain| domain.introduced)
    }

    /// What is known of a domain, which has quotas from then on.
    pub(super) fn domain(&mut self, domid: DomId) -> &mut Domain {
        self.quotas.budget(domid);
        self.domains.entry(domid).or_default()
    }

    /// Drops what is known of a domain that is neither introduced nor connected, and for which nobody has set anything.
    /// Domain 0 stays: its connections come and go, and what they have done is worth knowing.
    pub(super) fn tidy(&mut self, domid: DomId) {
        let known = self.domains.get(&domid).is_some_and(|domain| {
            domain.introduced || domain.target.is_some() || domain.features.is_some()
        });
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
}
