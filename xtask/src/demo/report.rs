//! What a run of the demo said, line by line, and what it amounts to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::kind::Kind;

/// The exit code of a `cantle` whose guest crashed.
pub(super) const CRASHED: u8 = 3;

/// The guest is gone without a word of its own.
#[derive(Debug)]
pub(super) struct GuestLost(pub(super) String);

impl fmt::Display for GuestLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GuestLost {}

/// Collects a run's output.
#[derive(Debug)]
pub(super) struct Report {
    partial: Vec<u8>,
    started: Option<Instant>,
    boot_s: Option<f64>,
    values: BTreeMap<String, String>,
    failure: Option<String>,
    /// What cantle said of the guest's end.
    end: Option<String>,
    done: bool,
    after: String,
}

/// The last line of a demo that went well.
#[derive(Debug, Serialize)]
struct Line<'a> {
    demo: &'a str,
    host: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    transport: &'a str,
    /// By which interface the guest was told of events: `fifo` or `2l`.
    evtchn: &'a str,
    /// By whom: `kernel` or `user`.
    delivery: &'a str,
    /// Returns from the kernel, of all kinds.
    exits: u64,
    boot_s: f64,
    #[serde(rename = "disk_MBps")]
    disk_mbps: f64,
    #[serde(rename = "net_MBps")]
    net_mbps: f64,
    /// Event channels that the guest opened and signalled, where it was asked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<u64>,
    /// What the guest did with xenstore, where it was asked to.
    #[serde(flatten)]
    xenstore: Option<Xenstore>,
}

/// Transactions over the guest's ring.
#[derive(Debug, Serialize)]
struct Xenstore {
    /// Those committed: as many as were asked for.
    transactions: u64,
    transactions_per_s: f64,
    /// Commits that came too late and were begun anew.
    transactions_again: u64,
    /// Transactions whose effect was not there, or there twice.
    transactions_failed: u64,
}

/// The most returns from the kernel of a guest whose events KVM delivers; there are about 450, and 16,000 otherwise.
const FEW_EXITS: u64 = 4000;

/// The line of a run, where KVM delivered the guest's events by the 2-level interface.
pub(super) fn by_the_kernel(line: String) -> Result<String> {
    let values: Value = serde_json::from_str(&line)?;
    let exits = values.get("exits").and_then(Value::as_u64);
    let is = |name: &str, value: &str| values.get(name).is_some_and(|v| v == value);
    ensure!(
        is("delivery", "kernel") && is("evtchn", "2l") && exits.is_some_and(|n| n < FEW_EXITS),
        "the kernel did not deliver the guest's events: {line}"
    );
    Ok(line)
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            partial: Vec::new(),
            started: None,
            boot_s: None,
            values: BTreeMap::new(),
            failure: None,
            end: None,
            done: false,
            after: String::new(),
        }
    }

    /// Takes output; the lines that it completed.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.partial.extend_from_slice(bytes);
        let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') else {
            return Vec::new();
        };
        let rest = self.partial.split_off(end + 1);
        let complete = std::mem::replace(&mut self.partial, rest);
        let lines: Vec<String> = String::from_utf8_lossy(&complete)
            .lines()
            .map(|line| line.trim_end_matches('\r').to_owned())
            .collect();
        for line in &lines {
            self.line_said(line);
        }
        lines
    }

    fn line_said(&mut self, line: &str) {
        if line == "host: start" {
            self.started = Some(Instant::now());
        } else if line.starts_with("guest: init at ") {
            self.boot_s = self.started.map(|at| at.elapsed().as_secs_f64());
        } else if line == "guest: done" {
            self.done = true;
        } else if let Some((who, why)) = line.split_once(": failed: ") {
            let why = format!("the {who}: {why}");
            self.failure.get_or_insert(why);
        } else if let Some(said) = line
            .strip_prefix("guest: ")
            .or_else(|| line.strip_prefix("host: "))
        {
            if let Some((name, value)) = said.split_once('=') {
                self.values.insert(name.to_owned(), value.to_owned());
            }
        } else {
            if line.starts_with("guest '") {
                self.end = Some(line.to_owned());
            }
            if self.done {
                self.after.push_str(line);
                self.after.push('\n');
            }
        }
    }

    /// Whether the run of such a guest ended as it should, with everything said; `code` is the script's exit code.
    pub(super) fn judge(&self, code: u8, kind: Kind) -> Result<()> {
        self.ended(code)?;
        ensure!(
            self.value("net_received_sha256")? == self.value("net_up_sha256")?,
            "what came from the guest through the network is not what it sent"
        );
        self.disk_sha256()?;
        self.line("", kind).map(drop)
    }

    /// Whether the guest came to its proper end.
    pub(super) fn ended(&self, code: u8) -> Result<()> {
        if let Some(why) = &self.failure {
            bail!("{why}");
        }
        let end = self.end.as_deref().unwrap_or("cantle said nothing");
        if !self.done {
            let which = match self.boot_s {
                Some(_) => "finish",
                None => "reach its init",
            };
            let why = format!("the guest did not {which} (exit code {code}): {end}");
            if code == CRASHED {
                bail!(GuestLost(why));
            }
            bail!(why);
        }
        ensure!(
            code == 0,
            "cantle's exit code is {code}, although the guest finished"
        );
        Ok(())
    }

    /// Whether the guest's kernel is of this kind, by its own word.
    pub(super) fn is_of(&self, kind: Kind) -> Result<()> {
        let guest_type = self.value("guest_type")?;
        ensure!(
            guest_type == kind.guest_type(),
            "the guest's kernel says that it is {guest_type}, not {}",
            kind.guest_type()
        );
        Ok(())
    }

    /// Seconds from the start to the guest's init.
    pub(super) fn boot_s(&self) -> Result<f64> {
        self.boot_s.context("the guest did not boot")
    }

    /// What was said as NAME=VALUE with this before the name; the names without it.
    pub(super) fn said(&self, before: &str) -> BTreeMap<String, String> {
        let named = self.values.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix(before)?;
            Some((name.to_owned(), value.clone()))
        });
        named.collect()
    }

    /// The checksum of the data that the guest wrote to its disk.
    pub(super) fn disk_sha256(&self) -> Result<&str> {
        self.value("disk_sha256")
    }

    /// The demo's last line.
    pub(super) fn line(&self, host: &str, kind: Kind) -> Result<String> {
        self.is_of(kind)?;
        let stats = self.stats()?;
        let named = |name: &str| {
            [stats.get("stats"), Some(&stats)]
                .into_iter()
                .flatten()
                .find_map(|part| part.get(name)?.as_str())
                .with_context(|| format!("cantle's statistics name no {name}"))
        };
        let evtchn = named("evtchn")?;
        let said = self.value("evtchn")?;
        ensure!(
            said == evtchn,
            "the guest's kernel says that it uses the event channels' {said} interface, cantle says {evtchn}"
        );
        let exits = [stats.pointer("/stats/exits"), stats.get("exits")];
        let exits = exits.into_iter().flatten().find_map(Value::as_object);
        let line = Line {
            demo: "ok",
            host,
            kind: kind.name(),
            transport: named("transport")?,
            evtchn,
            delivery: named("delivery")?,
            exits: exits.map_or(0, |exits| exits.values().filter_map(Value::as_u64).sum()),
            boot_s: (self.boot_s()? * 100.0).round() / 100.0,
            disk_mbps: self.number("disk_read_MBps")?,
            net_mbps: self.number("net_down_MBps")?,
            channels: self.channels()?,
            xenstore: self.xenstore()?,
        };
        Ok(serde_json::to_string(&line)?)
    }

    /// The channels that the guest opened and signalled, if it was asked to: all that it was asked for.
    fn channels(&self) -> Result<Option<u64>> {
        let Some(wanted) = self.values.get("channels_wanted") else {
            return Ok(None);
        };
        let opened = self.value("channels")?;
        ensure!(
            opened == wanted,
            "the guest opened {opened} event channels, not {wanted}"
        );
        Ok(Some(opened.parse()?))
    }

    /// The guest's xenstore, if it was asked for: its tools worked, its interface came back, and all transactions were committed once.
    fn xenstore(&self) -> Result<Option<Xenstore>> {
        let Some(wanted) = self.values.get("transactions_wanted") else {
            return Ok(None);
        };
        for what in ["xenstore_ls", "xenstore_watch", "reconnected"] {
            self.value(what)?;
        }
        let count = |name| -> Result<u64> {
            let value = self.value(name)?;
            value
                .parse()
                .with_context(|| format!("the guest's {name} is {value:?}"))
        };
        let done = Xenstore {
            transactions: count("transactions")?,
            transactions_per_s: self.number("transactions_per_s")?,
            transactions_again: count("transactions_again")?,
            transactions_failed: count("transactions_failed")?,
        };
        ensure!(
            done.transactions.to_string() == *wanted && done.transactions_failed == 0,
            "of {wanted} transactions the guest committed {}, and {} failed",
            done.transactions,
            done.transactions_failed
        );
        Ok(Some(done))
    }

    /// The JSON object among what was said after the guest's end.
    fn stats(&self) -> Result<Value> {
        for (start, _) in self.after.match_indices('{') {
            let text = self.after.get(start..).unwrap_or_default();
            let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
            if let Some(Ok(value @ Value::Object(_))) = values.next() {
                return Ok(value);
            }
        }
        bail!("cantle printed no statistics");
    }

    fn number(&self, name: &str) -> Result<f64> {
        let value = self.value(name)?;
        value
            .parse()
            .with_context(|| format!("the guest's {name} is {value:?}"))
    }

    fn value(&self, name: &str) -> Result<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("the guest did not say its {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "host: start\nguest: init at 1.20 s\r\nguest: disk_sha256=ab\r\n\
        guest: disk_read_MBps=101.5\r\nguest: net_down_MBps=40.0\r\nguest: net_up_sha256=ef\r\n\
        guest: guest_type=PVH\r\nguest: evtchn=fifo\r\nguest: done\r\n\
        the guest switched itself off\n{\n \"transport\": \"xen\", \"evtchn\": \"fifo\", \
        \"delivery\": \"user\", \"exits\": {\"a\": 3, \"b\": 4}\n}\n\
        host: net_received_sha256=ef\nhost: end 0\n";

    fn report(text: &str) -> Report {
        let mut report = Report::new();
        for part in text.as_bytes().chunks(7) {
            report.push(part);
        }
        report
    }

    #[test]
    fn a_good_run_makes_the_line() {
        let report = report(GOOD);
        report.judge(0, Kind::Pvh).unwrap();
        let line: Value =
            serde_json::from_str(&report.line("debian12", Kind::Pvh).unwrap()).unwrap();
        assert_eq!(line["transport"], "xen");
        assert_eq!(line["evtchn"], "fifo");
        assert_eq!(
            (&line["delivery"], &line["exits"]),
            (&"user".into(), &7.into())
        );
        assert_eq!(line.get("channels"), None);
        assert_eq!(line["disk_MBps"], 101.5);
        assert_eq!(line["host"], "debian12");
    }

    #[test]
    fn channels_that_were_asked_for_are_in_the_line() {
        let asked = "host: channels_wanted=200\nhost: start";
        let with = |said: &str| {
            let done = format!("{said}\r\nguest: done");
            let text = GOOD.replace("host: start", asked);
            report(&text.replace("guest: done", &done))
        };
        let report = with("guest: channels=200");
        report.judge(0, Kind::Pvh).unwrap();
        let line: Value =
            serde_json::from_str(&report.line("debian12", Kind::Pvh).unwrap()).unwrap();
        assert_eq!(line["channels"], 200);
        assert!(with("guest: channels=198").judge(0, Kind::Pvh).is_err());
        assert!(with("").judge(0, Kind::Pvh).is_err());
    }

    #[test]
    fn transactions_that_were_asked_for_are_in_the_line() {
        let asked = "host: transactions_wanted=50\nhost: start";
        let good = "guest: xenstore_ls=90\nguest: xenstore_watch=ok\nguest: reconnected=1\n\
            guest: transactions_per_s=400\nguest: transactions_again=3\nguest: transactions_failed=0\n\
            guest: transactions=50\nguest: done";
        let with = |said: &str| {
            let text = GOOD.replace("host: start", asked);
            report(&text.replace("guest: done", said))
        };
        let line = with(good).line("debian12", Kind::Pvh).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["transactions"], 50);
        assert_eq!(line["transactions_per_s"], 400.0);
        assert_eq!(line["transactions_again"], 3);
        for (from, to) in [
            ("=50", "=49"),
            ("failed=0", "failed=1"),
            ("guest: xenstore_watch=ok\n", ""),
            ("guest: reconnected=1\n", ""),
        ] {
            assert!(
                with(&good.replace(from, to)).judge(0, Kind::Pvh).is_err(),
                "{from}"
            );
        }
        let line = report(GOOD).line("debian12", Kind::Pvh).unwrap();
        assert!(!line.contains("transactions"));
    }

    #[test]
    fn deliveries_by_the_kernel_are_told_from_others() {
        let good = GOOD.replace("fifo", "2l").replace("user", "kernel");
        let line = report(&good).line("debian13", Kind::Pvh).unwrap();
        assert!(by_the_kernel(line.clone()).is_ok());
        for (from, to) in [
            ("\"kernel\"", "\"user\""),
            ("\"2l\"", "\"fifo\""),
            (":7,", ":7777,"),
        ] {
            assert!(by_the_kernel(line.replace(from, to)).is_err(), "{from}");
        }
    }

    #[test]
    fn whatever_is_missing_or_wrong_fails_the_run() {
        for (from, to) in [
            ("guest: init at 1.20 s", ""),
            ("received_sha256=ef", "received_sha256=cd"),
            ("disk_sha256=ab", ""),
            ("guest: disk_read_MBps=101.5", ""),
            ("guest: done", "guest: failed: no xvda"),
            ("guest: done", ""),
            ("\"transport\"", "\"other\""),
            ("\"delivery\"", "\"other\""),
            ("guest: evtchn=fifo", ""),
            ("guest_type=PVH", "guest_type=PV"),
            ("guest: evtchn=fifo", "guest: evtchn=2l"),
        ] {
            assert!(
                report(&GOOD.replace(from, to)).judge(0, Kind::Pvh).is_err(),
                "{from}"
            );
        }
        assert!(report(GOOD).judge(1, Kind::Pvh).is_err());
        let crash = "host: start\nguest 'g' crashed: triple fault\nhost: end 3\n";
        let why = report(crash).judge(3, Kind::Pvh).unwrap_err();
        assert!(why.is::<GuestLost>(), "{why}");
        assert!(why.to_string().ends_with("crashed: triple fault"), "{why}");
        let failed = "host: start\nguest: failed: no xvda\nguest 'g' crashed: x\n";
        assert!(
            !report(failed)
                .judge(3, Kind::Pvh)
                .unwrap_err()
                .is::<GuestLost>()
        );
    }
}
