//! A daemon to talk to, in a folder of its own.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cantle_xenstore::Shared;
use cantle_xenstore::client::SocketClient;
use cantle_xenstore::transport::{Service, listen};
use tempfile::TempDir;

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// This crate's service, in a thread.
    Ours,
    /// Xen's, in C.
    Xenstored,
    /// Xen's, in OCaml.
    Oxenstored,
}

pub(crate) struct Daemon {
    pub(crate) kind: Kind,
    socket: PathBuf,
    running: Running,
    _folder: TempDir,
}

enum Running {
    Thread(Arc<AtomicBool>, Option<JoinHandle<()>>),
    Process(Child),
}

impl Daemon {
    /// Starts one; `None` where Xen's are not there, which is said, and no answer where it has to be one.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (socket, running) = match kind {
            Kind::Ours => {
                let socket = folder.path().join("socket");
                let running = serve(&socket);
                (socket, running)
            }
            Kind::Xenstored | Kind::Oxenstored => {
                let name = format!("{kind:?}").to_lowercase();
                let Some(start) = peers() else {
                    let missing = format!("NOT TESTED: no {name} (cargo xtask peers)");
                    assert!(std::env::var_os("CI").is_none(), "{missing}");
                    eprintln!("{missing}");
                    return None;
                };
                let root = folder.path().join("root");
                let child = Command::new(start)
                    .args([root.as_os_str(), name.as_ref()])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                let socket = root.join("run/xenstored/socket");
                (socket, Running::Process(child))
            }
        };
        let daemon = Self {
            kind,
            socket,
            running,
            _folder: folder,
        };
        daemon.wait();
        Some(daemon)
    }

    pub(crate) fn ours() -> Self {
        Self::start(Kind::Ours).unwrap()
    }

    fn wait(&self) {
        let begin = Instant::now();
        while SocketClient::connect(&self.socket).is_err() {
            assert!(
                begin.elapsed() < PATIENCE,
                "{:?} does not listen",
                self.kind
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn client(&self) -> SocketClient {
        SocketClient::connect(&self.socket).unwrap()
    }

    /// Ends our service, and starts it with an empty store.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.running = serve(&self.socket);
        self.wait();
    }

    /// Ends it; its clients see that.
    pub(crate) fn stop(&mut self) {
        match &mut self.running {
            Running::Thread(stop, thread) => {
                stop.store(true, Relaxed);
                if let Some(thread) = thread.take() {
                    thread.join().unwrap();
                }
            }
            Running::Process(child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Listens. A test that starts a process may hold all descriptors of this one for a moment, a socket's that was closed
/// just now included.
fn bind(socket: &Path) -> UnixListener {
    let begin = Instant::now();
    loop {
        match listen::bind(socket) {
            Ok(listener) => return listener,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{}: {error}", socket.display()),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn serve(socket: &Path) -> Running {
    let mut service = Service::new(Shared::default()).unwrap();
    service.listen(bind(socket), None).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        while !stopped.load(Relaxed) {
            service.run_once(Some(Duration::from_millis(20))).unwrap();
        }
    });
    Running::Thread(stop, Some(thread))
}

/// The script that starts Xen's daemons.
fn peers() -> Option<PathBuf> {
    let folder = std::env::var_os("CANTLE_PEERS").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("../peers"),
        PathBuf::from,
    );
    Some(folder.join("start")).filter(|start| start.exists())
}
