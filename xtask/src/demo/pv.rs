//! What a PV guest does for its programs is what a PVH guest does: the same Debian guest boots as both, and `guests/stress` has to say the same in both.

pub(crate) mod boot;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::Serialize;

use super::{DemoArgs, Host, Kind};
use crate::images::{Debian, Guest};
use crate::{guests, machine, programs};
use boot::{Boot, Stage};

/// The guest's vCPUs unless told otherwise: more are lost to the emulator more often.
const VCPUS: u32 = 1;

/// CPUs of the lab unless told otherwise: the guest has no devices that a second one would serve, and the emulator loses fewer hosts of one.
const LAB_CPUS: u32 = 1;

/// The last line of a demo that went well.
#[derive(Debug, Serialize)]
struct Line<'a> {
    demo: &'a str,
    host: &'a str,
    guest: &'a str,
    vcpus: u32,
    /// Checks that said the same in each kind of guest.
    stress: usize,
    /// By kind: seconds from the start of `cantle` to the guest's init.
    boot_s: BTreeMap<&'a str, f64>,
    seconds: u64,
}

/// Works a guest's kernel as both kinds, or as the one that was asked for; its line.
pub(super) fn stress(host: Host, guest: Guest, args: &DemoArgs) -> Result<String> {
    let debian = match host {
        Host::Debian12 => Debian::Debian12,
        Host::Debian13 => Debian::Debian13,
        Host::Native => bail!("the stress needs a lab: --host debian12 or debian13"),
    };
    let begun = Instant::now();
    machine::for_demo()?;
    if !args.no_build {
        guests::build()?;
        programs::build()?;
    }
    let vcpus = args.vcpus.unwrap_or(VCPUS);
    let mut stage = Stage::new(
        debian,
        guest,
        guests::program("stress"),
        args.lab_cpus.unwrap_or(LAB_CPUS),
        Duration::from_secs(args.timeout),
    )?;
    let kinds = args
        .kind
        .map_or(vec![Kind::Pvh, Kind::Pv], |kind| vec![kind]);
    let mut line = Line {
        demo: "ok",
        host: host.name(),
        guest: guest.name(),
        vcpus,
        stress: 0,
        boot_s: BTreeMap::new(),
        seconds: 0,
    };
    let mut first: Option<BTreeMap<String, String>> = None;
    for kind in kinds {
        let outcome = stage.tried(&Boot {
            kind,
            vcpus,
            // A part of what is tried, which not every release has unless told.
            cmdline: format!("vsyscall=xonly {}", args.cmdline),
        })?;
        ensure!(!outcome.said.is_empty(), "the guest said nothing");
        line.stress = outcome.said.len();
        let boot_s = (outcome.boot_s * 100.0).round() / 100.0;
        line.boot_s.insert(kind.name(), boot_s);
        match &first {
            None => first = Some(outcome.said),
            Some(first) => same(first, &outcome.said)?,
        }
    }
    stage.leave()?;
    line.seconds = begun.elapsed().as_secs();
    Ok(serde_json::to_string(&line)?)
}

/// Whether both said the same, check by check.
fn same(pvh: &BTreeMap<String, String>, pv: &BTreeMap<String, String>) -> Result<()> {
    let said = |of: &BTreeMap<String, String>, name: &str| {
        of.get(name).map_or("nothing", String::as_str).to_owned()
    };
    let mut differences = Vec::new();
    let names: std::collections::BTreeSet<&String> = pvh.keys().chain(pv.keys()).collect();
    for name in names {
        let (as_pvh, as_pv) = (said(pvh, name), said(pv, name));
        if as_pvh != as_pv {
            differences.push(format!("{name} is {as_pvh} as PVH, {as_pv} as PV"));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn a_difference_is_told_with_both_sides() {
        let pvh = said(&[("fork", "1"), ("map", "2")]);
        same(&pvh, &pvh.clone()).unwrap();
        let why = same(&pvh, &said(&[("fork", "1"), ("map", "3")])).unwrap_err();
        assert_eq!(why.to_string(), "map is 2 as PVH, 3 as PV");
    }

    #[test]
    fn a_check_that_one_did_not_do_is_a_difference() {
        let both = said(&[("fork", "1"), ("map", "2")]);
        let one = said(&[("fork", "1")]);
        assert!(same(&both, &one).is_err() && same(&one, &both).is_err());
    }
}
