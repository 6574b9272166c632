//! How long a client waits while the daemon replaces itself with a store of 120,000 nodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use cantle_abi::io::xs_wire::XS_CONTROL;

use super::daemons::Daemon;
use super::load::{converse, dial};
use super::{script, tree};
use crate::measure::Unit;
use crate::report::Report;

const DOMAINS: usize = 120_000 / tree::NODES;

/// The longest that a client waited for one answer while the daemon was replaced, in milliseconds: the whole update as it is seen from
/// outside, with the check of the new program that goes before. There is no limit to compare with, and the peers' live
/// update needs a hypervisor.
pub(super) fn run(report: &mut Report) -> Result<()> {
    let daemon = Daemon::ours()?;
    tree::plant(&daemon, DOMAINS)?;
    let program = std::env::current_exe()?.with_file_name("cantle-xenstored");
    let steps = [
        format!("live-update\0-f\0{}\0", program.display()),
        "live-update\0-s\0".to_owned(),
    ];
    let mut wait = || {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let client = scope.spawn(|| longest_wait(&daemon, &stop));
            let updated = update(&daemon, &steps);
            stop.store(true, Ordering::Relaxed);
            let longest = client
                .join()
                .map_err(|_| anyhow!("the client panicked"))??;
            updated.map(|()| longest.as_secs_f64() * 1e3)
        })
    };
    report.contest(
        "xenstore/live_update_120k",
        Unit::Milliseconds,
        &mut wait,
        None,
    );
    Ok(())
}

/// The steps of a live update belong to one connection.
fn update(daemon: &Daemon, steps: &[String]) -> Result<()> {
    let operator = dial(daemon.socket())?;
    for step in steps {
        let request = script::request(XS_CONTROL, 0, &[step.as_bytes()])?;
        let answer = converse(&operator, &request, 1)?;
        ensure!(
            answer.ends_with(b"OK\0"),
            "refused: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(())
}

/// Asks again and again until told to stop.
fn longest_wait(daemon: &Daemon, stop: &AtomicBool) -> Result<Duration> {
    let stream = dial(daemon.socket())?;
    let request = script::directory("/")?;
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        converse(&stream, &request, 1)?;
        longest = longest.max(begun.elapsed());
    }
    Ok(longest)
}
