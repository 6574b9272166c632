//! A daemon of one's own, and programs that speak to it.

pub(crate) mod guest;
pub(crate) mod raw;

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take that is expected to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_cantle-xenstored");

/// A running daemon in a folder of its own.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) child: Child,
    folder: PathBuf,
}

impl Daemon {
    /// Starts it with its socket and its log in `folder`, and waits until it listens.
    pub(crate) fn start<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Self::command(folder);
        command.args(args);
        Self::spawn(folder, command)
    }

    pub(crate) fn command(folder: &Path) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("--socket")
            .arg(folder.join("socket"))
            .env_remove("CANTLE_LOG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn spawn(folder: &Path, mut command: Command) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        let child = command.stderr(log).spawn().unwrap();
        let mut daemon = Self {
            child,
            folder: folder.to_owned(),
        };
        // The socket of one that was killed may be there still.
        eventually("the daemon listens", || {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}\n{}", daemon.log());
            std::os::unix::net::UnixStream::connect(daemon.socket()).is_ok()
        });
        daemon
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it by a signal.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Runs a program that finds the daemon by the environment.
    pub(crate) fn client(&self, program: impl AsRef<OsStr>) -> Command {
        client(&self.socket(), program)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program that finds a daemon by the environment.
pub(crate) fn client(socket: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env("XENSTORED_PATH", socket)
        .env_remove("XENSTORED_RUNDIR")
        .stdin(Stdio::null());
    command
}

/// What a program printed and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Waits until something is true.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether something that a test needs is there; where `CI` is set, it has to be.
pub(crate) fn have(path: &Path, from: &str) -> bool {
    let here = path.exists();
    if !here {
        let text = format!("{} is missing ({from})", path.display());
        assert!(std::env::var_os("CI").is_none(), "{text}");
        eprintln!("NOT TESTED: {text}");
    }
    here
}

/// The folder of Xen's own programs that `cargo xtask peers` makes.
pub(crate) fn peers() -> PathBuf {
    std::env::var_os("CANTLE_PEERS").map_or_else(
        || {
            // target/debug/deps/test
            let mut target = std::env::current_exe().unwrap();
            for _ in 0..3 {
                target.pop();
            }
            target.join("peers")
        },
        PathBuf::from,
    )
}
