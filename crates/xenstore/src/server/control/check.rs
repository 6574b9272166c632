//! `check`: whether what is counted is what is there.

use std::collections::HashMap;

use cantle_abi::DomId;

use crate::server::Server;

/// How many faults are told of.
const FAULTS_MAX: usize = 32;

/// What a domain's connections come to when they are counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    connections: usize,
    watches: usize,
    transactions: usize,
    kept: i64,
}

impl Server {
    /// Counts everything anew and compares. A line for each fault, or `OK`.
    pub(super) fn check(&self) -> String {
        let mut faults: Vec<String> = self
            .store
            .audit()
            .into_iter()
            .map(|domain| format!("nodes of domain {domain} are miscounted"))
            .collect();
        let watches: usize = self
            .connections
            .values()
            .map(|connection| connection.watches.len())
            .sum();
        if watches != self.watches.len() {
            faults.push("watches are miscounted".to_owned());
        }
        let mut counted = self.count_connections(&mut faults);
        for (domid, budget) in &self.quotas.budgets {
            let known = Counted {
                connections: budget.connections as usize,
                watches: budget.watches as usize,
                transactions: budget.transactions as usize,
                kept: i64::try_from(budget.kept).unwrap_or(i64::MAX),
            };
            if counted.remove(domid).unwrap_or_default() != known {
                faults.push(format!("what domain {domid} uses is miscounted"));
            }
        }
        for domid in counted.keys() {
            faults.push(format!("what domain {domid} uses is not counted"));
        }
        if faults.is_empty() {
            return "OK".to_owned();
        }
        faults.truncate(FAULTS_MAX);
        faults.join("\n")
    }

    fn count_connections(&self, faults: &mut Vec<String>) -> HashMap<DomId, Counted> {
        let mut counted: HashMap<DomId, Counted> = HashMap::new();
        for (conn, connection) in &self.connections {
            let domid = connection.actor.domid;
            let watches: i64 = connection.watches.values().map(|watch| watch.bytes()).sum();
            let transactions: i64 = connection
                .transactions
                .values()
                .map(|open| open.bytes(domid))
                .sum();
            let kept = connection.kept(self.quotas.defaults.reply_bytes);
            let sound = (watches, transactions)
                == (connection.watch_bytes, connection.transaction_bytes)
                && kept == connection.settled
                && connection.outbox.is_sound()
                && connection.transactions.values().all(|open| open.is_sound());
            if !sound {
                faults.push(format!("bytes of connection {} are miscounted", conn.0));
            }
            let sum = counted.entry(domid).or_default();
            sum.connections += 1;
            sum.watches += connection.watches.len();
            sum.transactions += connection.transactions.len();
            sum.kept = sum.kept.saturating_add(kept);
        }
        counted
    }
}
