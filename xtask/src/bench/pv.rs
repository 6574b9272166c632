//! The area `pv`: the same Debian guest as PV and as PVH on one host, and as PV on Xen itself, all in the same emulator. `guests/pace` measures in them.
//!
//! PV and PVH guests take turns in one lab. Xen is another boot of the same emulated machine, without virtualisation in between.

mod monitor;
mod row;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::demo::Kind;
use crate::demo::pv::boot::{Boot, Stage};
use crate::images::{self, Debian, Guest, Tools};
use crate::xen::Guests;
use crate::{guests, machine, programs};
use row::{Row, Samples, Unit};

/// The area's name.
pub(super) const AREA: &str = "pv";

const HOST: Debian = Debian::Debian13;
const GUEST: Guest = Guest::Debian13;
/// CPUs of the emulated machine; guests have one.
const CPUS: u32 = 2;
/// How often each is booted.
const ROUNDS: u32 = 3;
/// How long a guest may take.
const TIMEOUT: Duration = Duration::from_secs(180);

/// What is measured: the row's name, the guest's name for it, and its unit.
const MEASURED: [(&str, &str, Unit); 6] = [
    ("boot", BOOT, Unit::Milliseconds),
    ("getpid", "getpid_ns", Unit::Nanoseconds),
    ("fork_exec", "fork_exec_ns", Unit::Nanoseconds),
    ("context_switch", "context_switch_ns", Unit::Nanoseconds),
    ("page_fault", "page_fault_ns", Unit::Nanoseconds),
    ("pipe", "pipe_MiBps", Unit::MebibytesPerSecond),
];

/// The time until the guest's init runs, which is measured from outside.
const BOOT: &str = "boot_ms";

/// A kind of guest's figures, by name.
type Figures = BTreeMap<String, Samples>;

/// Measures, prints the rows and writes them to `pv.json` in the folder.
pub(super) fn run(out: &Path, only: Option<&str>) -> Result<()> {
    machine::for_demo()?;
    guests::build()?;
    programs::build()?;
    let names = |suffix: &str| MEASURED.map(|(name, _, _)| format!("{AREA}/{name}_{suffix}"));
    let wants = |row: &String| only.is_none_or(|only| row.contains(only));
    let (vs_pvh, vs_xen) = (names("vs_pvh"), names("vs_xen"));

    let mut ours = [Kind::Pvh, Kind::Pv].map(|kind| (kind, Figures::new()));
    let mut notes = [None, None];
    if vs_pvh.iter().chain(&vs_xen).any(wants)
        && let Err(error) = in_the_lab(&mut ours)
    {
        notes[0] = Some(format!("{error:#}"));
    }
    let mut xens = Figures::new();
    if vs_xen.iter().any(wants)
        && let Err(error) = on_xen(&mut xens)
    {
        notes[1] = Some(format!("{error:#}"));
    }
    let [(_, pvh), (_, pv)] = &ours;
    let none = Samples::default();
    let of = |figures: &Figures, name: &str| figures.get(name).unwrap_or(&none).clone();
    let mut rows = Vec::new();
    for ((_, name, unit), row) in MEASURED.iter().zip(&vs_pvh) {
        let row = Row::new(row, *unit, &of(pv, name), &of(pvh, name), &none);
        rows.push(row.noted(notes[0].as_deref()));
    }
    for ((_, name, unit), row) in MEASURED.iter().zip(&vs_xen) {
        let row = Row::new(row, *unit, &of(pv, name), &none, &of(&xens, name));
        rows.push(row.noted(notes[1].as_deref().or(notes[0].as_deref())));
    }
    rows.extend(monitor::rows()?);
    rows.retain(|row| wants(&row.row));
    row::write(&rows, &out.join(format!("{AREA}.json")))
}

/// Both kinds in turns.
fn in_the_lab(sides: &mut [(Kind, Figures); 2]) -> Result<()> {
    let mut stage = Stage::new(HOST, GUEST, guests::program("pace"), CPUS, TIMEOUT)?;
    let mut outcome = Ok(());
    // The first of each warms the host's files up.
    for round in 0..=ROUNDS {
        for (kind, figures) in &mut *sides {
            let boot = Boot {
                kind: *kind,
                vcpus: 1,
                cmdline: String::new(),
            };
            match stage.tried(&boot) {
                Ok(_) if round == 0 => {}
                Ok(done) => {
                    add(figures, BOOT, done.boot_s * 1000.0);
                    for (name, value) in &done.said {
                        add(figures, name, number(value)?);
                    }
                }
                Err(error) => outcome = Err(error),
            }
        }
        if outcome.is_err() {
            break;
        }
    }
    stage.leave()?;
    outcome
}

/// PV guests on Xen.
fn on_xen(figures: &mut Figures) -> Result<()> {
    images::tools(GUEST, Tools::Xen)?;
    let program = guests::program("pace");
    let guests = Guests {
        guest: GUEST,
        program: &program,
        rounds: ROUNDS,
        cpus: CPUS,
        timeout: TIMEOUT * (ROUNDS + 1),
    };
    guests.run(&mut |line| {
        eprintln!("bench: xen: {line}");
        note(figures, line);
    })?;
    figures
        .contains_key(BOOT)
        .then_some(())
        .context("no guest has booted on Xen")
}

/// What a line of the console of Xen's host says.
fn note(figures: &mut Figures, line: &str) {
    if let Some(times) = line.strip_prefix("xen: boot=") {
        let seconds: Vec<f64> = times.split(',').flat_map(str::parse).collect();
        if let [begun, now] = seconds[..] {
            add(figures, BOOT, (now - begun) * 1000.0);
        }
    } else if let Some((name, value)) = line
        .strip_prefix("guest: pace_")
        .and_then(|said| said.split_once('='))
        && let Ok(figure) = value.parse()
    {
        add(figures, name, figure);
    }
}

fn add(figures: &mut Figures, name: &str, figure: f64) {
    figures.entry(name.to_owned()).or_default().push(figure);
}

fn number(text: &str) -> Result<f64> {
    text.parse()
        .with_context(|| format!("{text:?} is no figure"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xens_figures_are_read_from_its_console() {
        let mut figures = Figures::new();
        for line in [
            "xen: boot=12.50,15.75",
            "guest: pace_getpid_ns=150.5",
            "guest: pace_getpid_ns=x",
            "guest: done",
        ] {
            note(&mut figures, line);
        }
        assert_eq!(figures[BOOT].median(), Some(3250.0));
        assert_eq!(figures["getpid_ns"].median(), Some(150.5));
        assert_eq!(figures.len(), 2);
    }
}
