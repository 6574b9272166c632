//! The live view.

use cantle_xenstore::TxId;
use cantle_xenstore::client::SocketClient;
use cantle_xenstore::prelude::*;

use crate::daemon::{Daemon, Kind};
use crate::text;

#[test]
fn it_shows_what_was_asked_meanwhile() {
    let daemon = Daemon::start(Kind::Ours).unwrap();
    let client = SocketClient::connect(&daemon.socket()).unwrap();
    client
        .write(TxId::NONE, "/local/domain/0/name", b"Domain-0")
        .unwrap();
    client.watch("/a", "t").unwrap();
    let child = daemon
        .xs_command(&["top", "--json", "-d", "0.3", "-n", "2"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let begin = std::time::Instant::now();
    while begin.elapsed().as_millis() < 500 {
        client.write(TxId::NONE, "/a", b"v").unwrap();
        client.read(TxId::NONE, "/nothing").unwrap_err();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = text(&output.stdout);
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    let first = &lines[0];
    let seconds = first["seconds"].as_f64().unwrap();
    assert!((0.2..5.0).contains(&seconds), "{seconds}");
    let dom0 = &first["domains"][0];
    assert_eq!(
        (&dom0["domid"], &dom0["name"]),
        (&0.into(), &"Domain-0".into())
    );
    assert_eq!(
        (&dom0["connections"], &dom0["watches"]),
        (&2.into(), &1.into())
    );
    let rate = |name: &str| dom0[name].as_f64().unwrap();
    assert!(rate("errors_per_second") > 1.0, "{dom0}");
    assert!(
        rate("requests_per_second") > 1.5 * rate("errors_per_second"),
        "{dom0}"
    );
    assert!(rate("requests_per_second") < 1000.0, "{dom0}");
}

#[test]
fn the_table_is_one_block_a_tick() {
    let daemon = Daemon::start(Kind::Ours).unwrap();
    let said = daemon.said(&["top", "-d", "0.05", "-n", "3"]);
    let blocks: Vec<_> = said
        .split("\n\n")
        .filter(|block| !block.is_empty())
        .collect();
    assert_eq!(blocks.len(), 3, "{said}");
    for block in blocks {
        let lines: Vec<_> = block.lines().collect();
        assert!(lines[0].contains("requests/s"), "{said}");
        assert!(lines[1].starts_with("DOMID NAME"), "{said}");
        assert!(lines[2].starts_with("    0 -"), "{said}");
    }
    assert!(!said.contains('\x1b'), "no terminal, no escapes");
}

#[test]
fn a_daemon_without_figures_is_named_as_such() {
    for kind in [Kind::Xenstored, Kind::Oxenstored] {
        let Some(daemon) = Daemon::start(kind) else {
            continue;
        };
        let output = daemon.xs(&["top", "-n", "1"]);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains("needs cantle-xenstored"), "{said}");
    }
}
