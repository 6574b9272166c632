//! A daemon, this program at it, and xenstore-utils at it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cantle_xenstore::Shared;
use cantle_xenstore::client::SocketClient;
use cantle_xenstore::transport::{Service, listen};
use tempfile::TempDir;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// This project's service, in a thread.
    Ours,
    /// Xen's, in C.
    Xenstored,
    /// Xen's, in OCaml.
    Oxenstored,
}

pub(crate) struct Daemon {
    folder: TempDir,
    running: Running,
}

enum Running {
    Thread(Arc<AtomicBool>, Option<JoinHandle<()>>),
    Process(Child),
}

impl Daemon {
    /// Starts one in a folder of its own; `None` where Xen's programs are not there, which is said, and no answer where they
    /// have to be.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let running = if kind == Kind::Ours {
            let socket = socket(folder.path());
            std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
            serve(&socket)
        } else {
            let name = format!("{kind:?}").to_lowercase();
            let child = peer(folder.path(), &name)?
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            Running::Process(child.unwrap())
        };
        let daemon = Self { folder, running };
        let begin = Instant::now();
        while SocketClient::connect(&daemon.socket()).is_err() {
            assert!(begin.elapsed() < PATIENCE, "{kind:?} does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Some(daemon)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    pub(crate) fn xs_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cantle-xs"));
        command.arg("--socket").arg(self.socket()).args(args);
        command
    }

    /// What this program does.
    pub(crate) fn xs(&self, args: &[&str]) -> Output {
        self.xs_command(args).output().unwrap()
    }

    /// What it prints where it succeeds.
    pub(crate) fn said(&self, args: &[&str]) -> String {
        let output = self.xs(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// xenstore-utils' program of a command's name.
    pub(crate) fn util_command(&self, args: &[&str]) -> Option<Command> {
        let (name, args) = args.split_first().unwrap();
        let mut command = peer(self.folder.path(), &format!("xenstore-{name}"))?;
        command.args(args);
        Some(command)
    }

    /// What that does.
    pub(crate) fn util(&self, args: &[&str]) -> Output {
        self.util_command(args).unwrap().output().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        match &mut self.running {
            Running::Thread(stop, thread) => {
                stop.store(true, Relaxed);
                thread.take().map(JoinHandle::join);
            }
            Running::Process(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Where xenstore-utils look for it whose root is the folder.
fn socket(folder: &Path) -> PathBuf {
    folder.join("root/run/xenstored/socket")
}

fn serve(socket: &Path) -> Running {
    let mut service = Service::new(Shared::default()).unwrap();
    service.listen(listen::bind(socket).unwrap(), None).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        while !stopped.load(Relaxed) {
            service.run_once(Some(Duration::from_millis(20))).unwrap();
        }
    });
    Running::Thread(stop, Some(thread))
}

/// One of Xen's programs, whose root is in `folder`.
fn peer(folder: &Path, name: &str) -> Option<Command> {
    let peers = std::env::var_os("CANTLE_PEERS").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("../peers"),
        PathBuf::from,
    );
    let start = peers.join("start");
    if !start.exists() {
        let missing = format!("NOT TESTED: no {name} (cargo xtask peers)");
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("{missing}");
        return None;
    }
    let mut command = Command::new(start);
    command.arg(folder.join("root")).arg(name);
    Some(command)
}
