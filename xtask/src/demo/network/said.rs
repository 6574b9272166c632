//! What a part's guests and their host said, and whether all came to its proper end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use crate::demo::report::{CRASHED, GuestLost};
use crate::lab::Stream;

/// What arrived of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Arrived {
    /// Decimal MB/s.
    pub(super) rate: f64,
    /// Of datagrams: the percentage that did not arrive.
    pub(super) lost: Option<f64>,
}

/// Collects a part's output.
#[derive(Debug, Default)]
pub(super) struct Said {
    partial: Vec<u8>,
    server_partial: Vec<u8>,
    values: BTreeMap<String, String>,
    failure: Option<String>,
    /// What `cantle` said of the guests' ends.
    end: Option<String>,
    server_end: Option<String>,
    done: bool,
    server_done: bool,
    code: Option<u8>,
}

impl Said {
    /// Takes output: the host's and the first guest's, or the other guest's, which has a stream of its own. The lines that it completed.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) -> Vec<String> {
        let partial = match stream {
            Stream::Out => &mut self.partial,
            Stream::Err => &mut self.server_partial,
        };
        partial.extend_from_slice(bytes);
        let Some(end) = partial.iter().rposition(|b| *b == b'\n') else {
            return Vec::new();
        };
        let rest = partial.split_off(end + 1);
        let complete = std::mem::replace(partial, rest);
        let text = String::from_utf8_lossy(&complete).replace('\r', "");
        let mut lines = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            match stream {
                Stream::Out => {
                    self.note(line);
                    lines.push(line.to_owned());
                }
                Stream::Err => {
                    self.note_server(line);
                    lines.push(format!("the other: {line}"));
                }
            }
        }
        lines
    }

    fn note(&mut self, line: &str) {
        if let Some((who, why)) = line.split_once(": failed: ") {
            self.failure.get_or_insert(format!("the {who}: {why}"));
        } else if line == "guest: done" {
            self.done = true;
        } else if let Some(code) = line.strip_prefix("host: end ") {
            self.code = code.parse().ok();
        } else if line.starts_with("guest 'server'") {
            self.server_end = Some(line.to_owned());
        } else if line.starts_with("guest '") {
            self.end = Some(line.to_owned());
        } else if let Some((name, value)) = line
            .strip_prefix("guest: ")
            .or_else(|| line.strip_prefix("host: "))
            .and_then(|said| said.split_once('='))
        {
            self.values.insert(name.to_owned(), value.to_owned());
        }
    }

    fn note_server(&mut self, line: &str) {
        if let Some((who, why)) = line.split_once(": failed: ") {
            let why = format!("the other {who}: {why}");
            self.failure.get_or_insert(why);
        } else if line == "guest: done" {
            self.server_done = true;
        } else if line.starts_with("guest '") {
            self.server_end = Some(line.to_owned());
        }
    }

    /// Whether the guest, or both, came to their proper end.
    pub(super) fn judge(&self, has_server: bool) -> Result<()> {
        let crashed = CRASHED.to_string();
        // The one left has something to say of this as well.
        if has_server && self.values.get("server_end") == Some(&crashed) {
            let end = self.server_end.as_deref();
            bail!(GuestLost(end.unwrap_or("the other crashed").to_owned()));
        }
        if let Some(why) = &self.failure {
            bail!("{why}");
        }
        let end = self.end.as_deref().unwrap_or("cantle said nothing");
        if self.code == Some(CRASHED) {
            bail!(GuestLost(end.to_owned()));
        }
        ensure!(
            self.done && self.code == Some(0),
            "the guest did not finish ({}): {end}",
            self.code
                .map_or("no exit code".to_owned(), |code| format!("code {code}"))
        );
        if has_server {
            let code = self.value("server_end")?;
            ensure!(
                self.server_done && code == "0",
                "the other guest did not finish (code {code})"
            );
        }
        Ok(())
    }

    /// Whether the guest did all it was told, whatever became of its host's program then: QEMU may crash at a guest's end.
    pub(super) fn judge_peers(&self) -> Result<()> {
        if let Some(why) = &self.failure {
            bail!("{why}");
        }
        ensure!(self.done, "the guest did not finish ({:?})", self.code);
        Ok(())
    }

    /// Whether something has failed already.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// A value that was said.
    fn value(&self, name: &str) -> Result<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("nobody said {name}"))
    }

    /// One that is a number.
    pub(super) fn number(&self, name: &str) -> Result<u64> {
        let value = self.value(name)?;
        value
            .parse()
            .with_context(|| format!("{name} is {value:?}"))
    }

    /// One that is a run's.
    pub(super) fn arrived(&self, run: &str) -> Result<Arrived> {
        let value = self.value(run)?;
        let mut words = value.split(' ').map(str::parse);
        let rate = words.next().transpose();
        let lost = words.next().transpose();
        match (rate, lost) {
            (Ok(Some(rate)), Ok(lost)) => Ok(Arrived { rate, lost }),
            _ => bail!("{run} is {value:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 2] = [
        "host: start\r\nguest: queues=1\nguest: udp_up_v4_1500=5.0 0.12\nguest: tcp_up_v4_1500=30.1\nguest: done\n\
            guest 'guest' powered off\nhost: server_end=0\nhost: end 0\n",
        "guest: serving\r\nguest: done\nguest 'server' powered off\n",
    ];

    fn said(texts: [String; 2]) -> Said {
        let mut said = Said::default();
        for (stream, text) in [Stream::Out, Stream::Err].into_iter().zip(texts) {
            for part in text.as_bytes().chunks(7) {
                said.push(stream, part);
            }
        }
        said
    }

    fn good_but(from: &str, to: &str) -> [String; 2] {
        GOOD.map(|text| text.replace(from, to))
    }

    #[test]
    fn a_good_run_has_its_values() {
        let said = said(GOOD.map(str::to_owned));
        said.judge(true).unwrap();
        let udp = said.arrived("udp_up_v4_1500").unwrap();
        assert_eq!((udp.rate, udp.lost), (5.0, Some(0.12)));
        let tcp = said.arrived("tcp_up_v4_1500").unwrap();
        assert_eq!((tcp.rate, tcp.lost), (30.1, None));
        assert_eq!(said.number("queues").unwrap(), 1);
        assert!(said.number("tcp_up_v4_1500").is_err());
        assert!(said.arrived("tcp_down_v4_1500").is_err());
    }

    #[test]
    fn whoever_does_not_finish_fails_the_run() {
        for (from, to) in [
            ("30.1\nguest: done", "30.1"),
            ("guest: serving\r\nguest: done", "guest: serving"),
            ("server_end=0", "server_end=143"),
            ("host: end 0\n", ""),
            ("host: end 0", "host: end 2"),
            ("guest: queues=1", "guest: failed: no eth0"),
            ("guest: serving", "guest: failed: no eth0"),
            ("host: start", "host: failed: no bridge"),
        ] {
            let why = said(good_but(from, to)).judge(true).unwrap_err();
            assert!(!why.is::<GuestLost>(), "{from}: {why}");
        }
    }

    #[test]
    fn a_crash_is_a_loss_whatever_the_other_says_of_it() {
        let crash = said([
            "guest: failed: no answer\nhost: server_end=3\nhost: end 0\n".to_owned(),
            "guest 'server' crashed: x\n".to_owned(),
        ]);
        let why = crash.judge(true).unwrap_err();
        assert!(why.is::<GuestLost>() && why.to_string().ends_with("crashed: x"));
        let crash = "guest 'guest' crashed: triple fault\nhost: end 3\n";
        let why = said([crash.to_owned(), String::new()]).judge(false);
        assert!(why.unwrap_err().is::<GuestLost>());
    }

    #[test]
    fn a_peer_may_crash_when_all_is_done() {
        let crash = "guest: done\nSegmentation fault\nhost: end 139\n";
        let peers = said([crash.to_owned(), String::new()]);
        peers.judge_peers().unwrap();
        assert!(peers.judge(false).is_err());
        let early = said([crash.replace("guest: done\n", ""), String::new()]);
        assert!(early.judge_peers().is_err());
    }
}
