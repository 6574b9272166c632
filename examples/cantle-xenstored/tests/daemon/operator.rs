//! xenstore-control, as an operator uses it.

use crate::support::{Daemon, Said, have, peers};

/// `xenstore-control` links the toolstack's libraries, and comes with the peers.
pub(crate) fn control(daemon: &Daemon, args: &[&str]) -> Option<Said> {
    let root = peers().join("root");
    let program = root.join("usr/lib/xen-4.20/bin/xenstore-control");
    have(&program, "cargo xtask peers").then(|| {
        let mut command = daemon.client(root.join("usr/lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(root.join("usr/lib/x86_64-linux-gnu"))
            .arg(program)
            .args(args);
        command.output().unwrap().into()
    })
}

#[test]
fn an_operator_uses_xenstore_control() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let Some(help) = control(&daemon, &["help"]) else {
        return;
    };
    for command in [
        "check",
        "live-update",
        "log",
        "logfile",
        "memreport",
        "print",
        "quota",
    ] {
        assert!(
            help.out.lines().any(|line| line.starts_with(command)),
            "{command}: {help:?}"
        );
    }
    let report_file = folder.path().join("report");
    let report = report_file.to_str().unwrap();
    for line in [
        &["check"][..],
        &["print", "hello"],
        &["memreport", report],
        &["memreport"],
        &["log", "on"],
        &["quota", "set", "nodes", "2000"],
    ] {
        let said = control(&daemon, line).unwrap();
        assert_eq!(
            said,
            Said {
                code: Some(0),
                out: "OK\n".into(),
                err: String::new()
            },
            "{line:?}"
        );
    }
    assert!(std::fs::read_to_string(report).unwrap().contains("VmRSS"));
    assert!(daemon.log().contains("control: hello"));
    let quota = control(&daemon, &["quota"]).unwrap();
    assert!(
        quota.out.contains("nodes            :     2000"),
        "{quota:?}"
    );
    let own = control(&daemon, &["quota", "0"]).unwrap();
    assert!(own.out.contains("nodes "), "{own:?}");
    let unknown = control(&daemon, &["foo"]).unwrap();
    assert_eq!(unknown.code, Some(3), "{unknown:?}");
    assert!(
        unknown.err.starts_with("Command not supported."),
        "{unknown:?}"
    );

    let moved = folder.path().join("other-log");
    control(&daemon, &["logfile", moved.to_str().unwrap()]).unwrap();
    control(&daemon, &["print", "elsewhere"]).unwrap();
    assert!(
        std::fs::read_to_string(moved)
            .unwrap()
            .contains("control: elsewhere")
    );
}
