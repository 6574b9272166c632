//! `memreport`: what is kept for whom, in bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cantle_abi::DomId;

use crate::server::Server;

/// The columns after the domain's number.
const COLUMNS: [&str; 10] = [
    "nodes",
    "node-bytes",
    "connections",
    "watches",
    "watch-bytes",
    "transactions",
    "transaction-bytes",
    "request-bytes",
    "reply-bytes",
    "event-bytes",
];

impl Server {
    /// A table of what is kept for each domain, as the quota of memory counts it, but with a connection's buffers as full as
    /// they are: a line of names, a line for each domain in order, and a line of sums.
    ///
    /// It goes through all connections.
    #[must_use]
    pub fn memory_report(&self) -> String {
        let mut rows: BTreeMap<DomId, [u64; COLUMNS.len()]> = BTreeMap::new();
        for (domid, usage) in self.store.usages() {
            let [nodes, bytes, ..] = rows.entry(domid).or_default();
            *nodes += u64::try_from(usage.nodes).unwrap_or(0);
            *bytes += u64::try_from(usage.bytes).unwrap_or(0);
        }
        for connection in self.connections.values() {
            let watch_bytes = u64::try_from(connection.watch_bytes).unwrap_or(0);
            let transaction_bytes = u64::try_from(connection.transaction_bytes).unwrap_or(0);
            let more = [
                0,
                0,
                1,
                connection.watches.len() as u64,
                watch_bytes,
                connection.transactions.len() as u64,
                transaction_bytes,
                connection.partial.len() as u64,
                connection.outbox.reply_bytes() as u64,
                connection.outbox.event_bytes() as u64,
            ];
            add(rows.entry(connection.actor.domid).or_default(), &more);
        }
        let mut text = format!("domid {}\n", COLUMNS.join(" "));
        let mut sums = [0; COLUMNS.len()];
        for (domid, row) in &rows {
            add(&mut sums, row);
            write_row(&mut text, &domid.0.to_string(), row);
        }
        write_row(&mut text, "sum", &sums);
        text
    }
}

fn add(sums: &mut [u64; COLUMNS.len()], more: &[u64; COLUMNS.len()]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

fn write_row(text: &mut String, name: &str, row: &[u64]) {
    text.push_str(name);
    for value in row {
        let _ = write!(text, " {value}");
    }
    text.push('\n');
}
