//! The program as its users see it: what it prints and its exit codes, beside the programs of xenstore-utils.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod beside;
mod daemon;
mod top;
mod update;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

use daemon::{Daemon, Kind};

/// Runs the program without a daemon of the test's.
fn alone(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cantle-xs"))
        .args(args)
        .env_remove("XENSTORED_PATH")
        .env_remove("XENSTORED_RUNDIR")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn where_no_daemon_is_it_says_where_it_looked_and_what_to_do() {
    let output = alone(&["--socket", "/nonexistent/socket", "ls"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("no xenstore at /nonexistent/socket: No such file"),
        "{said}"
    );
    assert!(said.contains("start a daemon"), "{said}");
    let output = Command::new(env!("CARGO_BIN_EXE_cantle-xs"))
        .arg("ls")
        .env_remove("XENSTORED_PATH")
        .env("XENSTORED_RUNDIR", "/nonexistent/rundir")
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(
        said.contains("/nonexistent/rundir/socket") || said.contains("/dev/xen/xenbus"),
        "{said}"
    );
}

#[test]
fn usage_is_told_with_examples_and_wrong_usage_is_exit_code_1() {
    let output = alone(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for wanted in ["Examples:", "XENSTORED_PATH", "Exit codes:"] {
        assert!(text(&output.stdout).contains(wanted), "{wanted}");
    }
    for wrong in [
        &["read"][..],
        &["nonsense"],
        &["chmod", "/a", "x5"],
        &["top", "-d", "0"],
    ] {
        let output = alone(wrong);
        assert_eq!(output.status.code(), Some(1), "{wrong:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let daemon = Daemon::start(Kind::Ours).unwrap();
    let value = "x".repeat(1000);
    for number in 0..500 {
        let path = format!("/many/{number}");
        assert!(daemon.xs(&["write", &path, &value]).status.success());
    }
    let mut child = daemon
        .xs_command(&["ls", "-f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.starts_with('/'), "{first}");
    let status = child.wait().unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!((status.code(), &*said), (Some(141), ""));
}

#[test]
fn commands_of_its_own() {
    let daemon = Daemon::start(Kind::Ours).unwrap();
    assert!(daemon.xs(&["mkdir", "/a/b", "/c"]).status.success());
    assert_eq!(daemon.said(&["list", "/a"]), "b\n");
    daemon.said(&[
        "write",
        "/local/domain/5/name",
        "five",
        "/local/domain/17/name",
        "a\\tb",
    ]);
    assert_eq!(
        daemon.said(&["domains"]),
        "DOMID INTRODUCED NAME\n    5 no         five\n   17 no         a\\tb\n"
    );
    let failed = daemon.xs(&["write", "/a", "1", "/b"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("no value for /b"));
    let failed = daemon.xs(&["write", "/x//y", "1"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("could not write path /x//y: EINVAL"));
    assert!(
        daemon
            .said(&["quota"])
            .lines()
            .any(|line| line.starts_with("nodes "))
    );
    daemon.said(&["quota", "nodes", "4321"]);
    assert_eq!(daemon.said(&["quota", "nodes"]), "4321\n");
    let failed = daemon.xs(&["quota", "no-such-quota"]);
    assert_eq!(failed.status.code(), Some(1));
    let refused = daemon.xs(&["control", "no-such-command"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("help"), "{refused:?}");
    assert!(daemon.said(&["control", "help"]).contains("stats"));
}
