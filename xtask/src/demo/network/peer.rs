//! The same guest on the same host twice: with our interface, and with QEMU's xen-net-device, on the same tap. A report, which fails nobody.

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use super::part::Part;
use super::stage::{Stage, With};
use super::trial::Trial;
use crate::demo::{DemoArgs, Host, say};
use crate::images::{self, Debian, Guest, Tools};
use crate::{guests, machine, programs};

/// How often each is measured, by turns; the better counts, since what disturbs only slows down.
const ROUNDS: u32 = 2;

/// Its line.
pub(in crate::demo) fn on(host: Option<Host>, guest: Guest, args: &DemoArgs) -> Result<String> {
    ensure!(
        host.is_none_or(|host| host == Host::Debian13),
        "QEMU's Xen guests need a kernel with KVM's Xen support: --host debian13"
    );
    machine::for_demo()?;
    if !args.no_build {
        guests::build()?;
        programs::build()?;
    }
    for tools in [Tools::Network, Tools::Emulator] {
        images::tools(guest, tools)?;
    }
    let mut stage = Stage::new(Debian::Debian13, guest, args)?;
    let ours = Trial::speed(args);
    let peers = ours.by_the_peer();
    let mut best = vec![[0.0_f64; 2]; ours.runs.len()];
    for _ in 0..ROUNDS {
        for (column, (trial, with)) in [(&ours, With::Cantle), (&peers, With::Qemu)]
            .into_iter()
            .enumerate()
        {
            let said = match stage.once(trial, with) {
                Ok(said) => said,
                Err(error) => {
                    say(&format!("{}: no figure: {error:#}", with.name()));
                    continue;
                }
            };
            for (run, best) in trial.runs.iter().zip(&mut best) {
                if let (Ok(arrived), Some(best)) =
                    (said.arrived(&run.to_string()), best.get_mut(column))
                {
                    *best = best.max(arrived.rate);
                }
            }
        }
    }
    stage.leave()?;
    let names: Vec<String> = ours.runs.iter().map(ToString::to_string).collect();
    Ok(line(guest, &names, &best))
}

/// Both figures of each run, and ours as so many of the peer's.
fn line(guest: Guest, names: &[String], best: &[[f64; 2]]) -> String {
    let figure = |rate: f64| match rate {
        0.0 => Value::Null,
        rate => json!(rate),
    };
    let mut line = Map::new();
    for (name, value) in [
        ("demo", "peer"),
        ("host", Host::Debian13.name()),
        ("guest", guest.name()),
        ("part", Part::Host.name()),
        ("unit", "MBps"),
    ] {
        line.insert(name.to_owned(), value.into());
    }
    for (name, [ours, peers]) in names.iter().zip(best) {
        let ratio = match peers {
            0.0 => Value::Null,
            peers => json!((ours / peers * 100.0).round() / 100.0),
        };
        let figures = json!({"cantle": figure(*ours), "qemu": figure(*peers), "ratio": ratio});
        line.insert(name.clone(), figures);
    }
    Value::Object(line).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_without_a_figure_has_none() {
        let names = ["tcp_up", "tcp_down"].map(str::to_owned);
        let line = line(Guest::Debian13, &names, &[[20.0, 10.0], [30.0, 0.0]]);
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["tcp_up"]["ratio"], 2.0);
        assert_eq!(line["tcp_down"]["cantle"], 30.0);
        assert!(line["tcp_down"]["qemu"].is_null() && line["tcp_down"]["ratio"].is_null());
    }
}
