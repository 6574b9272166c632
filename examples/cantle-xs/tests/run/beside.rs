//! Beside xenstore-utils, at the same daemon.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::daemon::{Daemon, Kind};
use crate::text;

/// Runs a test at each kind of daemon that xenstore-utils can be run at.
fn at_each(test: impl Fn(&Daemon)) {
    for kind in [Kind::Ours, Kind::Xenstored, Kind::Oxenstored] {
        let Some(daemon) = Daemon::start(kind) else {
            continue;
        };
        if daemon.util_command(&["ls"]).is_some() {
            println!("{kind:?}");
            test(&daemon);
        }
    }
}

/// A tree with something of everything.
fn fill(daemon: &Daemon, root: &str) {
    let long = "0123456789".repeat(12);
    let deep = "/d".repeat(40);
    for (path, value) in [
        ("", ""),
        ("/short", "value"),
        ("/empty", ""),
        ("/long", &long),
        ("/just-below-the-width", &long[..46]),
        ("/just-above-the-width", &long[..47]),
        (
            "/escapes",
            "tab\\t nl\\n cr\\r bs\\\\ one\\001 seven\\007 eight\\x08 high\\xff quote\"",
        ),
        ("/escapes-that-are-long", &"\\n".repeat(60)),
        ("/a/b/c", "nested"),
        (&deep, "deep"),
        (&format!("/{}", "n".repeat(90)), "behind a long name"),
    ] {
        daemon.said(&["write", &format!("{root}{path}"), value]);
    }
    // An owner that xenstored does not know, it refuses.
    daemon.said(&["chmod", &format!("{root}/short"), "n0", "r6", "b7"]);
    daemon.said(&["chmod", &format!("{root}/long"), "w0"]);
}

fn assert_same(daemon: &Daemon, args: &[&str]) {
    let (ours, theirs) = (daemon.xs(args), daemon.util(args));
    assert_eq!(text(&ours.stdout), text(&theirs.stdout), "{args:?}");
    assert_eq!(
        ours.status.code(),
        theirs.status.code(),
        "{args:?}: {ours:?} {theirs:?}"
    );
    assert_eq!(
        ours.stderr.is_empty(),
        theirs.stderr.is_empty(),
        "{args:?}: {ours:?} {theirs:?}"
    );
}

#[test]
fn what_is_printed_is_the_same() {
    at_each(|daemon| {
        fill(daemon, "/t");
        for args in [
            &["ls"][..],
            &["ls", "/t"],
            &["ls", "-f", "/t"],
            &["ls", "-p", "/t"],
            &["ls", "-f", "-p", "/t", "/t/a"],
            &["ls", "/nothing"],
            &["read", "/t/short"],
            &["read", "/t/escapes", "/t/long"],
            &["read", "-p", "/t/escapes", "/t/short"],
            &["read", "-R", "/t/short", "/t/long"],
            &["read", "/t/short", "/nothing", "/t/long"],
            &["read", "/nothing"],
            &["list", "/t"],
            &["list", "-p", "/t", "/t/a"],
            &["list", "/nothing"],
            &["exists", "/t/short"],
            &["exists", "/t/short", "/nothing"],
            &["exists", "/nothing"],
        ] {
            assert_same(daemon, args);
        }
    });
}

#[test]
fn what_is_changed_is_the_same() {
    at_each(|daemon| {
        fill(daemon, "/ours");
        fill(daemon, "/util");
        for args in [
            &["write", "@/new", "1", "@/other", "a\\x41\\101\\tz\\q"][..],
            &["write", "-R", "@/raw", "a\\tb"],
            &["write", "@/trailing", "x\\"],
            &["write", "@//bad", "1"],
            &["rm", "@/raw", "@/empty"],
            &["rm", "@/nowhere/at/all"],
            &["rm", "-t", "@/a/b/c"],
            &["chmod", "@/short", "b0"],
            &["chmod", "-u", "@/d/d/d", "n0", "r3"],
            &["chmod", "-r", "@/d", "r0"],
            &["chmod", "@/nothing", "r2"],
        ] {
            let at = |root: &str| -> Vec<String> {
                args.iter().map(|arg| arg.replace('@', root)).collect()
            };
            let (ours, util) = (at("/ours"), at("/util"));
            let ours = daemon.xs(&ours.iter().map(String::as_str).collect::<Vec<_>>());
            let util = daemon.util(&util.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(
                ours.status.code(),
                util.status.code(),
                "{args:?}: {ours:?} {util:?}"
            );
            let tree = |root: &str| {
                let tree = daemon.said(&["ls", "-f", "-p", root]);
                let mut lines: Vec<_> = tree.lines().map(|line| line.replace(root, "@")).collect();
                lines.sort();
                lines
            };
            assert_eq!(tree("/ours"), tree("/util"), "{args:?}");
        }
    });
}

#[test]
fn what_is_watched_is_the_same() {
    at_each(|daemon| {
        let args = ["watch", "-n", "5", "/w/a", "/w/b"];
        let spawn = |mut command: std::process::Command| -> Child {
            command.stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut watching = [
            spawn(daemon.xs_command(&args)),
            spawn(daemon.util_command(&args).unwrap()),
        ];
        let mut readers: Vec<_> = watching
            .iter_mut()
            .map(|child| BufReader::new(child.stdout.take().unwrap()))
            .collect();
        let mut seen = vec![Vec::new(); 2];
        let mut read = |count| {
            for (reader, seen) in readers.iter_mut().zip(&mut seen) {
                for _ in 0..count {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    seen.push(line);
                }
            }
        };
        // Each line is there as soon as it happened.
        read(2);
        daemon.said(&["write", "/w/a/x", "1"]);
        read(1);
        daemon.said(&["write", "/w/b", "1", "/w/a/x", "2"]);
        read(2);
        for child in &mut watching {
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
        seen.iter_mut().for_each(|seen| seen.sort());
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0][..2], ["/w/a\n", "/w/a/x\n"]);
    });
}
