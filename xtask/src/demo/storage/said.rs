//! What one boot of a guest said, and whether it ended as it was to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::history::{self, Durable};
use crate::demo::report::{CRASHED, GuestLost};

/// How a boot is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The guest has done all it was told, and switched itself off.
    Off,
    /// Its `cantle` was killed.
    Killed,
    /// It reset itself.
    Reset,
    /// The host was lost.
    Lost,
}

impl End {
    /// `cantle`'s exit code, where there is one.
    fn code(self) -> Option<u8> {
        match self {
            Self::Off => Some(0),
            Self::Killed => Some(137),
            Self::Reset => Some(4),
            Self::Lost => None,
        }
    }
}

/// What Linux says where a disk did not do as it should; what waits for the disk may then wait for ever.
const COMPLAINTS: [&str; 3] = [
    "disabled for further use",
    "I/O error",
    "blocked for more than",
];

/// Collects a boot's output.
#[derive(Debug, Default)]
pub(super) struct Said {
    partial: Vec<u8>,
    values: BTreeMap<String, String>,
    failure: Option<String>,
    /// The guest's kernel is not content with a disk.
    complaint: Option<String>,
    /// Since when the guest writes.
    writing: Option<Instant>,
    durable: Durable,
    /// When something became durable last, and the longest time between two of those.
    progress: Option<Instant>,
    silence: Duration,
    /// What cantle said of the guest's end.
    end: Option<String>,
    done: bool,
    code: Option<u8>,
}

impl Said {
    /// Takes output; the lines that it completed and that are for people.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.partial.extend_from_slice(bytes);
        let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') else {
            return Vec::new();
        };
        let rest = self.partial.split_off(end + 1);
        let complete = std::mem::replace(&mut self.partial, rest);
        let text = String::from_utf8_lossy(&complete).replace('\r', "");
        let mut shown = Vec::new();
        for line in text.lines() {
            if !self.counted(line) && !line.is_empty() {
                self.note(line);
                shown.push(line.to_owned());
            }
        }
        shown
    }

    /// Whether it is one of the many lines of the writers.
    fn counted(&mut self, line: &str) -> bool {
        let Some((lane, batch)) = history::durable(line) else {
            return false;
        };
        let last = self.durable.entry(lane).or_default();
        *last = batch.max(*last);
        let now = Instant::now();
        if let Some(before) = self.progress.replace(now) {
            self.silence = self.silence.max(now - before);
        }
        true
    }

    fn note(&mut self, line: &str) {
        if COMPLAINTS.iter().any(|words| line.contains(words)) {
            self.complaint.get_or_insert(line.to_owned());
        }
        if let Some((who, why)) = line.split_once(": failed: ") {
            self.failure.get_or_insert(format!("the {who}: {why}"));
        } else if line == "guest: writing" {
            self.writing = Some(Instant::now());
        } else if line == "guest: done" {
            self.done = true;
        } else if let Some(code) = line.strip_prefix("host: end ") {
            self.code = code.parse().ok();
        } else if line.starts_with("guest '") {
            self.end = Some(line.to_owned());
        } else if let Some((name, value)) = line
            .strip_prefix("guest: ")
            .and_then(|said| said.split_once('='))
        {
            self.values.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Whether the guest has been writing for so long.
    pub(super) fn has_written_for(&self, time: Duration) -> bool {
        self.writing.is_some_and(|since| since.elapsed() >= time)
    }

    /// For how long the guest has written, until something was durable for the last time, and the longest time in which nothing was.
    pub(super) fn times(&self) -> (Duration, Duration) {
        let written = self.writing.zip(self.progress);
        let written = written.map(|(from, to)| to.saturating_duration_since(from));
        (written.unwrap_or_default(), self.silence)
    }

    /// For how long nothing has become durable.
    pub(super) fn standstill(&self) -> Duration {
        let since = self.progress.or(self.writing);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether there is no use in waiting.
    pub(super) fn is_hopeless(&self) -> bool {
        self.complaint.is_some()
    }

    /// What the writers said was durable.
    pub(super) fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Whether the boot came to the end it was to come to.
    pub(super) fn judge(&self, end: End) -> Result<()> {
        if let Some(why) = &self.failure {
            bail!("{why}");
        }
        if let Some(line) = &self.complaint {
            bail!("the guest's kernel: {line}");
        }
        if end == End::Lost {
            return Ok(());
        }
        let said = self.end.as_deref().unwrap_or("cantle said nothing");
        if self.code == Some(CRASHED) {
            bail!(GuestLost(said.to_owned()));
        }
        ensure!(
            self.code == end.code() && self.done == (end == End::Off),
            "the guest's end ({}) is not the one that was due ({end:?}): {said}",
            self.code
                .map_or("no exit code".to_owned(), |code| format!("code {code}"))
        );
        Ok(())
    }

    /// A value that the guest said.
    pub(super) fn value(&self, name: &str) -> Result<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("the guest did not say its {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        let mut said = Said::default();
        for part in text.as_bytes().chunks(5) {
            said.push(part);
        }
        said
    }

    #[test]
    fn writers_lines_are_counted_and_others_noted() {
        let text = "host: start\nguest: writing\r\ndurable xvda 1 3\r\ndurable xvda 1 2\ndurable xvda 2 1\n\
            durable xvda 1 9\nhost: end 137\n";
        let said = said(text);
        said.judge(End::Killed).unwrap();
        assert_eq!(said.durable().get(&("xvda".to_owned(), 1)), Some(&9));
        assert_eq!(said.durable().len(), 2);
        assert!(said.has_written_for(Duration::ZERO));
        for end in [End::Off, End::Reset] {
            assert!(said.judge(end).is_err(), "{end:?}");
        }
    }

    #[test]
    fn an_end_in_order_needs_its_last_word() {
        let good = "guest: fio_s_raw=7\nguest: done\nguest 'g' powered off\nhost: end 0\n";
        let all = said(good);
        all.judge(End::Off).unwrap();
        assert_eq!(all.value("fio_s_raw").unwrap(), "7");
        for (from, to) in [
            ("guest: done\n", ""),
            ("guest: done", "guest: failed: x"),
            ("end 0", "end 1"),
            ("host: end 0\n", ""),
        ] {
            let why = said(&good.replace(from, to)).judge(End::Off).unwrap_err();
            assert!(!why.is::<GuestLost>(), "{why}");
        }
        let line = "[    9.1] xvda disabled for further use\n";
        let complaint = said(&format!("{line}{good}"));
        assert!(complaint.is_hopeless() && complaint.judge(End::Off).is_err());
        let crashed = said("guest 'g' crashed: x\nhost: end 3\n");
        assert!(crashed.judge(End::Reset).unwrap_err().is::<GuestLost>());
    }
}
