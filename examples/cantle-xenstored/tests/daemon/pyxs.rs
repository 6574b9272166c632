//! Debian's pyxs, a client in pure Python, against the daemon's socket.

use std::path::Path;

use crate::support::{Daemon, Said, have};

#[test]
fn pyxs_finds_what_it_knows_of_xenstored() {
    let package = Path::new("/usr/lib/python3/dist-packages/pyxs");
    if !have(package, "Debian's python3-pyxs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/clients.py");
    let said: Said = daemon
        .client("/usr/bin/python3")
        .arg("-B")
        .arg(script)
        .arg(daemon.socket())
        .output()
        .unwrap()
        .into();
    let out = "values\npermissions\ntransactions\nmonitors\ndomains\nthreads\n";
    assert_eq!((said.code, &*said.out), (Some(0), out), "{}", said.err);
}
