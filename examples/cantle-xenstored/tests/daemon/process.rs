//! What a daemon does as a process: its files, its signals, its neighbours.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use cantle_abi::io::xs_wire::{XS_READ, XS_WRITE};
use rustix::process::Signal;

use crate::support::raw::Raw;
use crate::support::{Daemon, PROGRAM, Said, eventually};

#[test]
fn it_ends_orderly_by_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let daemon = Daemon::start(folder.path(), ["--pid-file", pid_file.to_str().unwrap()]);
        let socket = daemon.socket();
        assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert_eq!(pid, format!("{}\n", daemon.child.id()));
        let status = daemon.end(signal);
        assert_eq!(status.code(), Some(0));
        assert!(!socket.exists() && !pid_file.exists());
    }
}

#[test]
fn a_second_daemon_on_the_same_socket_says_so_and_leaves_the_first_alone() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let second: Said = Daemon::command(folder.path()).output().unwrap().into();
    assert_eq!(second.code, Some(2));
    assert!(
        second.err.contains("is served by another daemon"),
        "{second:?}"
    );
    let mut client = Raw::connect(&daemon.socket());
    assert_eq!(client.ask(XS_WRITE, 0, b"/a\x001"), Ok(b"OK\0".to_vec()));
}

#[test]
fn the_log_is_opened_anew_by_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let [log, old] = ["its-log", "its-log.1"].map(|name| folder.path().join(name));
    let daemon = Daemon::start(folder.path(), ["--log-file", log.to_str().unwrap()]);
    let begun = fs::read_to_string(&log).unwrap();
    assert!(begun.contains("xenstore is ready"), "{begun}");
    fs::rename(&log, &old).unwrap();
    daemon.signal(Signal::HUP);
    eventually("there is a new log", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("opened anew"))
    });
    assert_eq!(fs::read_to_string(&old).unwrap(), begun);
    assert!(daemon.log().is_empty(), "nothing is said elsewhere");
}

#[test]
fn a_service_manager_is_told_when_it_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    let mut command = Daemon::command(folder.path());
    command.env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::spawn(folder.path(), command);
    let told = || {
        let mut text = [0; 64];
        let len = manager.recv(&mut text).unwrap();
        String::from_utf8(text[..len].to_vec()).unwrap()
    };
    assert_eq!(told(), "READY=1");
    daemon.end(Signal::TERM);
    assert_eq!(told(), "STOPPING=1");
}

#[test]
fn a_service_managers_socket_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs");
    let listener = OwnedFd::from(UnixListener::bind(&path).unwrap());
    // A shell puts the descriptor where the protocol wants it, and has the number that the daemon will have.
    let script = format!(
        "exec 3<&{}; exec env LISTEN_FDS=1 LISTEN_PID=$$ {PROGRAM}",
        listener.as_raw_fd()
    );
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let mut daemon = Command::new("sh")
        .args(["-c", &script])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(listener);
    let mut client = Raw::connect(&path);
    assert!(client.ask(XS_READ, 0, b"/tool\0").is_ok());
    let _end =
        rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), Signal::TERM);
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(path.exists(), "the manager's, not ours");
}

#[test]
fn wrong_usage_and_impossible_places_are_told_by_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none/socket");
    for args in [
        &["--no-such-option"][..],
        &["--quota", "nodes"],
        &["--quota", "no-such-quota=1"],
        &["--socket", missing.to_str().unwrap()],
        &["--log-file", missing.to_str().unwrap()],
        &["--log-level", "=what"],
    ] {
        let mut command = Command::new(PROGRAM);
        command.env("XENSTORED_PATH", folder.path().join("socket"));
        let said: Said = command.args(args).output().unwrap().into();
        assert_eq!(said.code, Some(2), "{args:?}: {said:?}");
        assert!(!said.err.is_empty(), "{args:?}");
    }
}

#[test]
fn a_restarted_daemon_begins_empty_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start::<&str>(folder.path(), []);
    let socket = daemon.socket();
    let mut client = Raw::connect(&socket);
    client.ask(XS_WRITE, 0, b"/a\x001").unwrap();
    let status = daemon.end(Signal::KILL);
    assert_eq!(status.code(), None);
    assert!(
        client.try_ask(XS_READ, 0, b"/a\0").is_err(),
        "its clients see an end"
    );
    assert!(UnixStream::connect(&socket).is_err() && socket.exists());

    let daemon = Daemon::start::<&str>(folder.path(), []);
    assert!(daemon.log().contains("the store is empty"));
    let mut client = Raw::connect(&daemon.socket());
    assert_eq!(client.ask(XS_READ, 0, b"/a\0"), Err("ENOENT".to_owned()));
}
