//! `cargo xtask test`: everything there is to check, on a machine that may be fresh.

mod tally;

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::images::{Debian, Guest};
use crate::{demo, fuzz, guests, hostile, machine, peers, programs, workspace};
use tally::Tally;

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// More of everything: tests that are ignored otherwise, many more random cases, a minute of each fuzz target,
    /// more guests.
    #[arg(long)]
    long: bool,
    /// Leaves out the demo, and with it the lab.
    #[arg(long)]
    no_demo: bool,
}

/// Runs the checks one after another; a failed one does not keep the next from running.
pub(crate) fn main(args: &TestArgs) -> Result<ExitCode> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    tally.check("set-up", machine::for_tests);
    tally.check("the guests build", guests::build);
    tally.check("the peers", peers::prepare);
    lints(&mut tally);
    tests(&mut tally, args.long);
    fuzzing(&mut tally, args.long);
    if !args.no_demo {
        demos(&mut tally, args.long);
        for host in [Debian::Debian12, Debian::Debian13] {
            let name = format!("a hostile back end on {}", host.name());
            tally.check(&name, || hostile::on(host).map(drop));
        }
    }
    tally.summary(begun.elapsed());
    Ok(if tally.all_well() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn lints(tally: &mut Tally) {
    tally.command("fmt", programs::cargo().args(["fmt", "--all", "--check"]));
    tally.command(
        "clippy",
        cargo("clippy").args(["--workspace", "--all-targets", "--", "-D", "warnings"]),
    );
    tally.check("clippy, guests", || {
        for mut clippy in guests::cargo("clippy")? {
            crate::process::run(clippy.args(["--", "-D", "warnings"]))?;
        }
        Ok(())
    });
    tally.command(
        "docs",
        cargo("doc")
            .args(["--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    );
}

fn tests(tally: &mut Tally, long: bool) {
    let mut test = programs::cargo();
    test.args(["test", "--workspace", "--no-fail-fast"]);
    // There, what a test needs may not be missing.
    test.env("CI", "true");
    if long {
        test.env("PROPTEST_CASES", "4096");
        test.args(["--", "--include-ignored"]);
    }
    tally.tests("tests", &mut test);
}

fn fuzzing(tally: &mut Tally, long: bool) {
    if !workspace::root().join("fuzz/Cargo.toml").exists() {
        return;
    }
    tally.command(
        "fuzz targets compile",
        cargo("check")
            .current_dir(workspace::root().join("fuzz"))
            .arg("--target-dir")
            .arg(workspace::target().join("fuzz")),
    );
    if long {
        tally.check("fuzz targets, a minute each", || fuzz::all(60));
    }
}

fn demos(tally: &mut Tally, long: bool) {
    let begun = Instant::now();
    let guests = if long {
        &Guest::ALL[..]
    } else {
        &Guest::USUAL[..]
    };
    eprintln!("test: the demo, {} guests on both hosts …", guests.len());
    let channels = if long { 20_000 } else { 4_000 };
    let mut pairs = demo::pairs(guests, channels);
    pairs.extend(demo::by_the_kernel());
    if !long {
        pairs = demo::unless_all_lost(pairs);
    }
    let outcomes = pairs
        .into_iter()
        .chain(demo::pv(guests, long))
        .chain(demo::storage(long))
        .chain(demo::network(long));
    for outcome in outcomes {
        let (well, line) = match outcome {
            Ok(line) => (true, line),
            Err(error) => (false, format!("{error:#}")),
        };
        tally.note(&format!("demo: {line}"), well);
    }
    eprintln!("test: the demo took {} s", begun.elapsed().as_secs());
}

/// A quiet cargo.
fn cargo(subcommand: &str) -> Command {
    let mut cargo = programs::cargo();
    cargo.args([subcommand, "--quiet"]);
    cargo
}
