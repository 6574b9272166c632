//! What passed and what failed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{self, Guarded};

/// Counts checks: each test of cargo's, each other step once.
#[derive(Debug, Default)]
pub(super) struct Tally {
    passed: u32,
    failures: Vec<String>,
    failed: u32,
}

impl Tally {
    /// Whether nothing failed, and something passed.
    pub(super) fn all_well(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// Counts one check.
    pub(super) fn note(&mut self, name: &str, well: bool) {
        if well {
            self.passed += 1;
            eprintln!("test: ok      {name}");
        } else {
            self.failed += 1;
            self.failures.push(name.to_owned());
            eprintln!("test: FAILED  {name}");
        }
    }

    /// Runs a step.
    pub(super) fn check(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        let begun = Instant::now();
        eprintln!("test: {name} …");
        let outcome = step();
        if let Err(error) = &outcome {
            eprintln!("test: {error:#}");
        }
        let took = begun.elapsed().as_secs();
        self.note(&format!("{name} ({took} s)"), outcome.is_ok());
    }

    /// Runs a command as a step.
    pub(super) fn command(&mut self, name: &str, command: &mut Command) {
        self.check(name, || process::run(command));
    }

    /// Runs `cargo test`, shows what it says and counts its tests.
    pub(super) fn tests(&mut self, name: &str, command: &mut Command) {
        eprintln!("test: {name} …");
        let (mut passed, mut failed) = (0, 0);
        let outcome = shown(command, |line| {
            if let Some((well, ill)) = closing(line) {
                passed += well;
                failed += ill;
            }
        });
        self.passed += passed;
        self.failed += failed;
        if failed > 0 {
            self.failures.push(format!("{failed} of the {name}"));
        }
        match outcome {
            // It failed without a failed test: something did not compile, or a program died.
            Err(error) if failed == 0 => {
                eprintln!("test: {error:#}");
                self.note(name, false);
            }
            _ => eprintln!("test: {name}: {passed} passed, {failed} failed"),
        }
    }

    /// The last lines.
    pub(super) fn summary(&self, took: Duration) {
        for name in &self.failures {
            println!("FAILED: {name}");
        }
        println!("{} min {} s", took.as_secs() / 60, took.as_secs() % 60);
        println!("{} passed, {} failed", self.passed, self.failed);
    }
}

/// Runs a command, shows its standard output and hands each line of it over.
fn shown(command: &mut Command, mut each: impl FnMut(&str)) -> Result<()> {
    let mut child = Guarded::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let output = child.output().context("cargo has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read cargo's output")?;
        println!("{line}");
        each(&line);
    }
    child.finish(&process::line(command))
}

/// The numbers in a test program's closing line: `test result: ok. 5 passed; 0 failed; …`.
fn closing(line: &str) -> Option<(u32, u32)> {
    let said = line.strip_prefix("test result: ")?;
    let number = |what: &str| -> Option<u32> {
        let before = said.split(what).next()?;
        before.split_whitespace().next_back()?.parse().ok()
    };
    Some((number(" passed")?, number(" failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_read() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(closing(line), Some((12, 3)));
        assert_eq!(closing("test ring::tests::wraps ... ok"), None);
    }

    #[test]
    fn nothing_run_is_not_well() {
        let mut tally = Tally::default();
        assert!(!tally.all_well());
        tally.note("one", true);
        assert!(tally.all_well());
        tally.note("two", false);
        assert!(!tally.all_well());
    }
}
