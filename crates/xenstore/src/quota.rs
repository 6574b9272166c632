//! What each domain may use and what it uses: the quota objects.
//!
//! A domain's [`Budget`] is made when it is first heard of and dies with it: the next domain of its number begins at zero
//! and with the limits of a new one. Nodes are counted by the [store](crate::store), since they may outlive their owner's
//! connections; everything else is counted here.
//!
//! A request gets an [`Allowance`] to ask before it changes anything. What it asked and where it was refused comes back as
//! an [`Outcome`], for the counters and the log.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use cantle_abi::{DomId, Errno};

use crate::limits::{Limits, Quota};
use crate::store::Actor;

/// The highest value of each quota that has been seen.
pub(crate) type Peaks = [u64; Quota::COUNT];

/// One domain's limits and use.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) limits: Arc<Limits>,
    /// The limits have been set for this domain.
    pub(crate) special: bool,
    /// Its quotas do not bind: domain 0, or one with a privileged connection.
    pub(crate) exempt: bool,
    pub(crate) connections: u32,
    pub(crate) watches: u32,
    pub(crate) transactions: u32,
    /// Bytes that are kept for its connections: everything but its nodes.
    pub(crate) kept: u64,
    pub(crate) peaks: Peaks,
    /// How often each quota has refused it something.
    pub(crate) hits: [u64; Quota::COUNT],
    /// It has been warned that it is beyond its soft quota, and has not been below since.
    warned: bool,
}

impl Budget {
    fn new(limits: Arc<Limits>, exempt: bool) -> Self {
        Self {
            limits,
            special: false,
            exempt,
            connections: 0,
            watches: 0,
            transactions: 0,
            kept: 0,
            peaks: Peaks::default(),
            hits: [0; Quota::COUNT],
            warned: false,
        }
    }

    /// More bytes, or less, are kept for the domain's connections.
    pub(crate) fn keep(&mut self, more: i64) {
        self.kept = self.kept.saturating_add_signed(more);
    }

    pub(crate) fn close_transactions(&mut self, number: usize) {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.transactions = self.transactions.saturating_sub(number);
    }

    pub(crate) fn drop_watches(&mut self, number: usize) {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.watches = self.watches.saturating_sub(number);
    }

    /// Something has reached a value.
    fn see(&mut self, quota: Quota, value: u64) {
        if let Some(peak) = self.peaks.get_mut(quota.index()) {
            *peak = (*peak).max(value);
        }
    }
}

/// All budgets.
#[derive(Debug)]
pub(crate) struct Quotas {
    /// What a new domain gets.
    pub(crate) defaults: Arc<Limits>,
    pub(crate) budgets: HashMap<DomId, Budget>,
    /// Of all domains that are bound, those that are gone too.
    pub(crate) peaks: Peaks,
    /// Log each refusal, not only those that are worth a warning.
    pub(crate) log_all: bool,
}

/// Where a quota refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) domid: DomId,
    pub(crate) quota: Quota,
    pub(crate) limit: u32,
}

/// What a request asked of its [`Allowance`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    actor: DomId,
    bound: bool,
    seen: Peaks,
    hit: Option<Hit>,
}

/// What one request may still use. Everything for those who are not bound.
#[derive(Debug)]
pub(crate) struct Allowance<'a> {
    quotas: &'a Quotas,
    limits: &'a Limits,
    actor: DomId,
    bound: bool,
    /// Bytes that the request is about to use, or to give back, beside what the budget knows.
    pending: Cell<i64>,
    seen: Cell<Peaks>,
    hit: Cell<Option<Hit>>,
}

impl Quotas {
    pub(crate) fn new(defaults: Limits) -> Self {
        Self {
            defaults: Arc::new(defaults),
            budgets: HashMap::new(),
            peaks: Peaks::default(),
            log_all: false,
        }
    }

    pub(crate) fn limits_of(&self, domid: DomId) -> &Limits {
        self.budgets
            .get(&domid)
            .map_or(&self.defaults, |budget| &budget.limits)
    }

    /// A domain's budget, made where there is none.
    pub(crate) fn budget(&mut self, domid: DomId) -> &mut Budget {
        let defaults = &self.defaults;
        self.budgets
            .entry(domid)
            .or_insert_with(|| Budget::new(Arc::clone(defaults), domid == DomId::DOM0))
    }

    /// Has a request ask for what it needs, and counts what it asked for and what it was refused. The path is for the log.
    pub(crate) fn ask<R>(
        &mut self,
        actor: Actor,
        path: &str,
        act: impl FnOnce(&Allowance<'_>) -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        let allowance = self.allowance(actor);
        let result = act(&allowance);
        let outcome = allowance.outcome(result.is_err());
        self.settle(&outcome, path);
        result
    }

    /// What a request of an actor may still use; what it asks is not counted. A privileged one may use everything.
    pub(crate) fn allowance(&self, actor: Actor) -> Allowance<'_> {
        Allowance {
            quotas: self,
            limits: self.limits_of(actor.domid),
            actor: actor.domid,
            bound: !actor.privileged,
            pending: Cell::new(0),
            seen: Cell::new(Peaks::default()),
            hit: Cell::new(None),
        }
    }

    fn settle(&mut self, outcome: &Outcome, path: &str) {
        if !outcome.bound {
            return;
        }
        let budget = self.budget(outcome.actor);
        for (quota, value) in Quota::ALL.into_iter().zip(outcome.seen) {
            budget.see(quota, value);
        }
        let [.., memory] = outcome.seen;
        let soft = u64::from(budget.limits.soft_memory);
        let beyond = soft != 0 && memory > soft;
        if beyond && !budget.warned {
            let domid = outcome.actor;
            tracing::warn!(target: "cantle_xenstore::quota", %domid, memory, soft, path, "domain beyond its soft quota of memory");
        }
        if memory != 0 {
            budget.warned = beyond;
        }
        if !budget.exempt {
            for (peak, value) in self.peaks.iter_mut().zip(outcome.seen) {
                *peak = (*peak).max(value);
            }
        }
        if let Some(hit) = outcome.hit {
            self.refuse(hit, path);
        }
    }

    /// Counts a refusal, or a request that had to wait. It is logged at the first and then at each power of two, so that a domain that does nothing but run
    /// into its quotas does not fill the log.
    pub(crate) fn refuse(&mut self, hit: Hit, path: &str) {
        let Hit {
            domid,
            quota,
            limit,
        } = hit;
        let log_all = self.log_all;
        let Some(hits) = self.budget(domid).hits.get_mut(quota.index()) else {
            return;
        };
        *hits += 1;
        let waits = quota == Quota::Outstanding;
        let (quota, hits) = (quota.name(), *hits);
        let loud = hits.is_power_of_two();
        if waits {
            // As a bound is meant to: nothing fails, and a busy client meets it now and then.
            if loud || log_all {
                tracing::info!(target: "cantle_xenstore::quota", %domid, quota, limit, hits, "quota has requests wait");
            }
        } else if loud {
            tracing::warn!(target: "cantle_xenstore::quota", %domid, quota, limit, path, hits, "quota refuses");
        } else if log_all {
            tracing::info!(target: "cantle_xenstore::quota", %domid, quota, limit, path, hits, "quota refuses");
        }
    }

    /// Forgets the highest values seen.
    pub(crate) fn reset_peaks(&mut self) {
        self.peaks = Peaks::default();
        for budget in self.budgets.values_mut() {
            budget.peaks = Peaks::default();
        }
    }
}

impl Allowance<'_> {
    /// Asks whether the actor may have so much.
    pub(crate) fn allow(&self, quota: Quota, value: usize) -> Result<(), Errno> {
        self.check(self.actor, self.limits, quota, value as u64)
    }

    /// Asks whether a domain may own so many nodes, and have so many bytes of them beside what else is kept for it.
    pub(crate) fn afford(
        &self,
        owner: DomId,
        nodes: Option<i64>,
        bytes: Option<i64>,
    ) -> Result<(), Errno> {
        if !self.bound {
            return Ok(());
        }
        let budget = self.quotas.budgets.get(&owner);
        if owner == DomId::DOM0 || budget.is_some_and(|budget| budget.exempt) {
            return Ok(());
        }
        let limits = budget.map_or(&self.quotas.defaults, |budget| &budget.limits);
        if let Some(nodes) = nodes {
            self.check(owner, limits, Quota::Nodes, unsigned(nodes))?;
        }
        if let Some(bytes) = bytes {
            let kept = budget.map_or(0, |budget| budget.kept);
            let pending = if owner == self.actor {
                self.pending.get()
            } else {
                0
            };
            let bytes = unsigned(bytes.saturating_add(pending)).saturating_add(kept);
            self.check(owner, limits, Quota::Memory, bytes)?;
        }
        Ok(())
    }

    /// From now on, what the actor affords comes beside these bytes, which its budget does not know yet; or which it gives
    /// back, where they are negative.
    pub(crate) fn pend(&self, bytes: i64) {
        self.pending.set(self.pending.get().saturating_add(bytes));
    }

    /// What was asked. A refusal counts only where the request failed for it.
    fn outcome(&self, failed: bool) -> Outcome {
        Outcome {
            actor: self.actor,
            bound: self.bound,
            seen: self.seen.get(),
            hit: self.hit.get().filter(|_| failed),
        }
    }

    fn check(&self, domid: DomId, limits: &Limits, quota: Quota, value: u64) -> Result<(), Errno> {
        if !self.bound {
            return Ok(());
        }
        if !limits.allows(quota, value) {
            let limit = limits.of(quota);
            self.hit.set(Some(Hit {
                domid,
                quota,
                limit,
            }));
            return Err(quota.errno());
        }
        if domid == self.actor {
            let mut seen = self.seen.get();
            if let Some(peak) = seen.get_mut(quota.index()) {
                *peak = (*peak).max(value);
            }
            self.seen.set(seen);
        }
        Ok(())
    }
}

/// What an account can only say in passing to be less than nothing is nothing.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
