//! What an operator asks that needs the system: `memreport`.

use std::fs::{self, OpenOptions};
use std::io::Write;

use anyhow::{Context, Result};
use cantle_xenstore::Shared;

/// Appends what memory is in use, by the kernel's count and by the server's, to a file or to the log.
pub(crate) fn report_memory(store: &Shared, path: Option<&str>) -> Result<()> {
    let mut report = String::from("the process:\n");
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    for line in status.lines() {
        if ["VmPeak", "VmSize", "VmHWM", "VmRSS", "RssAnon"]
            .iter()
            .any(|name| line.starts_with(name))
        {
            report.push_str(&format!("  {line}\n"));
        }
    }
    report.push_str("by domain: nodes, their bytes, watches, transactions, bytes unread\n");
    for domain in store.with(|server| server.stats()) {
        report.push_str(&format!(
            "  {}: {} {} {} {} {}\n",
            domain.domid,
            domain.nodes,
            domain.bytes,
            domain.watches,
            domain.transactions,
            domain.unread
        ));
    }
    let Some(path) = path else {
        tracing::info!("memory report\n{report}");
        return Ok(());
    };
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(report.as_bytes()))
        .with_context(|| format!("cannot write {path}"))
}
