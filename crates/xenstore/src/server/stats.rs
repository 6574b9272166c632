//! What has been asked of the server, and what it keeps, by domain.

use cantle_abi::DomId;

use super::Server;

/// What is counted for each connection, and summed for its domain when it ends. They only grow, and wrap never: one a
/// nanosecond would last for centuries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Requests handled, whatever the answer.
    pub(super) requests: u64,
    /// Those that were answered by an error.
    pub(super) errors: u64,
}

impl Counters {
    pub(super) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
    }
}

/// One domain's figures. The counters begin at zero when the server, or the domain, begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DomainStats {
    /// The domain.
    pub domid: DomId,
    /// Its connections.
    pub connections: u64,
    /// Requests that it has made.
    pub requests: u64,
    /// Requests of it that were answered by an error.
    pub errors: u64,
    /// How often a quota has refused it something.
    pub quota_hits: u64,
    /// Nodes that it owns.
    pub nodes: u64,
    /// Bytes that are kept for it, as its quota of memory counts them.
    pub bytes: u64,
    /// Its watches.
    pub watches: u64,
    /// Its open transactions.
    pub transactions: u64,
    /// Bytes of replies and events that it has not read.
    pub unread: u64,
}

impl DomainStats {
    fn new(domid: DomId) -> Self {
        Self {
            domid,
            connections: 0,
            requests: 0,
            errors: 0,
            quota_hits: 0,
            nodes: 0,
            bytes: 0,
            watches: 0,
            transactions: 0,
            unread: 0,
        }
    }

    /// The figures in the order of the fields, decimal, with a blank between.
    fn line(&self) -> String {
        format!(
            "{} {} {} {} {} {} {} {} {} {}\n",
            self.domid.0,
            self.connections,
            self.requests,
            self.errors,
            self.quota_hits,
            self.nodes,
            self.bytes,
            self.watches,
            self.transactions,
            self.unread
        )
    }
}

impl Server {
    /// The figures of every domain that is known, connected, or owns anything, in order of their numbers.
    ///
    /// It goes through all connections and the whole tree.
    #[must_use]
    pub fn stats(&self) -> Vec<DomainStats> {
        let mut all = std::collections::BTreeMap::new();
        let mut of = |domid: DomId, change: &mut dyn FnMut(&mut DomainStats)| {
            change(all.entry(domid).or_insert_with(|| DomainStats::new(domid)));
        };
        for (domid, domain) in &self.domains {
            of(*domid, &mut |stats| {
                stats.requests += domain.past.requests;
                stats.errors += domain.past.errors;
            });
        }
        for (domid, budget) in &self.quotas.budgets {
            of(*domid, &mut |stats| {
                stats.connections += u64::from(budget.connections);
                stats.quota_hits += budget.hits.iter().sum::<u64>();
                stats.watches += u64::from(budget.watches);
                stats.transactions += u64::from(budget.transactions);
                stats.bytes += budget.kept;
            });
        }
        for connection in self.connections.values() {
            of(connection.actor.domid, &mut |stats| {
                stats.requests += connection.counters.requests;
                stats.errors += connection.counters.errors;
                stats.unread += connection.outbox.unread() as u64;
            });
        }
        for (domid, usage) in self.store.usages() {
            of(domid, &mut |stats| {
                stats.nodes += u64::try_from(usage.nodes).unwrap_or(0);
                stats.bytes += u64::try_from(usage.bytes).unwrap_or(0);
            });
        }
        all.into_values().collect()
    }

    /// As many whole lines of the domains from `first` up as fit into `room` bytes.
    pub(super) fn stats_text(&self, first: DomId, room: usize) -> String {
        let mut text = String::new();
        let from_first = self.stats().into_iter().filter(|each| each.domid >= first);
        for line in from_first.map(|each| each.line()) {
            if text.len() + line.len() > room {
                break;
            }
            text.push_str(&line);
        }
        text
    }
}
