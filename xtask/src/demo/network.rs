//! The network demo: Debian guests send to their host and to each other, by TCP and UDP, IPv4 and IPv6, and all they send has to arrive.
//!
//! A guest for each part boots on a host that has a bridge with the guests' taps, its own address on that, and another one at the end of a wire
//! (a veth pair) that knows no offloads: whatever goes there has its checksum, which tcpdump looks at.
//!
//! The figures are an emulator's; they are there to be seen, and fail nobody. What fails is data that are not those sent, or do not come.

mod part;
pub(super) mod peer;
mod run;
mod said;
mod stage;
mod table;
mod trial;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Error, Result, bail, ensure};
use serde::Serialize;

use super::{DemoArgs, Host, lost, say};
use crate::images::{self, Debian, Guest, Tools};
use crate::{guests, machine, programs};
pub(crate) use part::Part;
use stage::Stage;
use table::Table;
use trial::Trial;

/// The last line of a demo that went well.
#[derive(Debug, Serialize)]
struct Line<'a> {
    demo: &'a str,
    host: &'a str,
    guest: &'a str,
    /// By part and run: decimal MB/s that arrived.
    #[serde(rename = "network_MBps")]
    network: BTreeMap<&'a str, BTreeMap<String, f64>>,
    /// Offloads that were switched off and on while all arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    toggled: Option<u64>,
    seconds: u64,
}

/// All that failed, in one; or the first loss where there is nothing else.
fn worst(failed: Vec<Error>) -> Result<()> {
    let (losses, failures): (Vec<_>, Vec<_>) = failed.into_iter().partition(lost);
    if !failures.is_empty() {
        let each: Vec<String> = failures.iter().map(|why| format!("{why:#}")).collect();
        bail!("{}", each.join("; "));
    }
    losses.into_iter().next().map_or(Ok(()), Err)
}

/// Whether a guest has failed since something took too long: not for data that were wrong, or missing.
fn is_late(failure: &str) -> bool {
    [
        "Resource temporarily unavailable",
        "timed out",
        "unable to connect",
    ]
    .iter()
    .any(|words| failure.contains(words))
}

/// Runs a host's guests; their line.
pub(super) fn on(host: Host, guest: Guest, args: &DemoArgs, parts: &[Part]) -> Result<String> {
    let debian = match host {
        Host::Debian12 => Debian::Debian12,
        Host::Debian13 => Debian::Debian13,
        Host::Native => bail!(
            "the network demo changes its host's network: it needs a lab, --host debian12 or debian13"
        ),
    };
    ensure!(!parts.is_empty(), "no part");
    let begun = Instant::now();
    machine::for_demo()?;
    if !args.no_build {
        guests::build()?;
        programs::build()?;
    }
    // Before the lab is up: it sees what is there when it begins.
    images::tools(guest, Tools::Network)?;
    let mut stage = Stage::new(debian, guest, args)?;
    let mut table = Table::default();
    let mut toggled = None;
    let mut failed = Vec::new();
    for part in parts {
        let trial = Trial::of(*part, args);
        let mut tried = stage.tried(&trial);
        if let Err(error) = &tried
            && !lost(error)
            && is_late(&format!("{error:#}"))
        {
            say(&format!(
                "{}: {error:#}; an emulator on a busy machine is as slow as that: once more",
                part.name()
            ));
            tried = stage.tried(&trial);
        }
        let said = match tried {
            Ok(said) => said,
            Err(error) => {
                failed.push(error);
                continue;
            }
        };
        failed.extend(trial.judge(&said).err());
        for run in &trial.runs {
            if let Ok(arrived) = said.arrived(&run.to_string()) {
                table.add(part.name(), &run.to_string(), arrived);
            }
        }
        if *part == Part::Host {
            toggled = said.number("toggled").ok();
        }
    }
    stage.leave()?;
    for row in table.rows() {
        say(&format!("{} on {}: {row}", guest.name(), host.name()));
    }
    worst(failed)?;
    Ok(serde_json::to_string(&Line {
        demo: "ok",
        host: host.name(),
        guest: guest.name(),
        network: table.by_part(),
        toggled,
        seconds: begun.elapsed().as_secs(),
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::GuestLost;

    #[test]
    fn wrong_data_are_not_late() {
        assert!(is_late(
            "switch: up: sent 5 of 9 bytes: Resource temporarily unavailable (os error 11)"
        ));
        assert!(!is_late(
            "host: failed: 7 packets came with a wrong checksum"
        ));
    }

    #[test]
    fn a_failure_is_worse_than_a_loss() {
        let loss = || Error::from(GuestLost("it hung".to_owned())).context("bridge");
        worst(Vec::new()).unwrap();
        assert!(lost(&worst(vec![loss(), loss()]).unwrap_err()));
        let failed = worst(vec![loss(), anyhow::anyhow!("a"), anyhow::anyhow!("b")]).unwrap_err();
        assert!(!lost(&failed) && failed.to_string() == "a; b");
    }
}
