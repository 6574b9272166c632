//! The view: a table, or a line of JSON.

use std::io::{self, Write};

use rustix::termios::tcgetwinsize;
use serde_json::json;

use super::sample::Row;

/// The lines of the terminal.
pub(super) fn height() -> Option<usize> {
    tcgetwinsize(io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_row))
}

/// One block: totals, a heading, and a line for each domain, as far as `height` lines allow.
pub(super) fn table(
    out: &mut impl Write,
    seconds: f64,
    rows: &[Row],
    height: Option<usize>,
) -> io::Result<()> {
    let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>();
    writeln!(
        out,
        "{} domains, {} connections, {} nodes, {} bytes; {:.1} requests/s in {seconds:.1} s",
        rows.len(),
        sum(|row| row.now.connections),
        sum(|row| row.now.nodes),
        sum(|row| row.now.bytes),
        rows.iter().map(|row| row.requests).sum::<f64>(),
    )?;
    writeln!(
        out,
        "{:>5} {:16} {:>10} {:>8} {:>8} {:>5} {:>7} {:>10} {:>7} {:>5} {:>8}",
        "DOMID",
        "NAME",
        "REQ/S",
        "ERR/S",
        "QUOTA/S",
        "CONN",
        "NODES",
        "BYTES",
        "WATCHES",
        "TX",
        "UNREAD"
    )?;
    // A line that is ended at the screen's bottom would move all up.
    let shown = height.map_or(rows.len(), |height| {
        height.saturating_sub(3).min(rows.len())
    });
    for row in rows.iter().take(shown) {
        let name: String = row
            .name
            .as_deref()
            .unwrap_or("-")
            .chars()
            .take(16)
            .collect();
        writeln!(
            out,
            "{:>5} {name:16} {:>10.1} {:>8.1} {:>8.1} {:>5} {:>7} {:>10} {:>7} {:>5} {:>8}",
            row.domid.0,
            row.requests,
            row.errors,
            row.quota_hits,
            row.now.connections,
            row.now.nodes,
            row.now.bytes,
            row.now.watches,
            row.now.transactions,
            row.now.unread,
        )?;
    }
    if height.is_none() {
        writeln!(out)?;
    }
    Ok(())
}

/// One line.
pub(super) fn json(out: &mut impl Write, seconds: f64, rows: &[Row]) -> io::Result<()> {
    let domains: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "domid": row.domid.0,
                "name": row.name,
                "requests_per_second": row.requests,
                "errors_per_second": row.errors,
                "quota_hits_per_second": row.quota_hits,
                "requests": row.now.requests,
                "errors": row.now.errors,
                "quota_hits": row.now.quota_hits,
                "connections": row.now.connections,
                "nodes": row.now.nodes,
                "bytes": row.now.bytes,
                "watches": row.now.watches,
                "transactions": row.now.transactions,
                "unread_bytes": row.now.unread,
            })
        })
        .collect();
    writeln!(out, "{}", json!({ "seconds": seconds, "domains": domains }))
}
