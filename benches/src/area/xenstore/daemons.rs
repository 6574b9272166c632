//! The daemons that are compared: ours, Xen's two, and one that only echoes.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::epoll;
use rustix::process::Pid;
use rustix::thread::CpuSet;
use tempfile::TempDir;

/// Where daemons run; the generator runs elsewhere.
const DAEMONS_CPU: usize = 0;
const GENERATOR_CPU: usize = 1;

/// Xen's own.
pub(super) const PEERS: [&str; 2] = ["xenstored", "oxenstored"];

/// The first argument of this program when it is the echo server.
pub(crate) const ECHO_ROLE: &str = "--xenstore-echo";

/// As a number of connections: everybody hears everything.
const FANOUT: usize = 0;

/// A daemon that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl Daemon {
    /// Ours, beside this program.
    pub(super) fn ours() -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("cantle-xenstored");
        Self::start(|folder| {
            let socket = folder.join("socket");
            let mut command = Command::new(&program);
            command.arg("--socket").arg(&socket);
            (command, socket)
        })
    }

    /// One of Xen's, as `cargo xtask peers` has made it ready.
    pub(super) fn peer(name: &str) -> Result<Self> {
        let peers = std::env::var_os("CANTLE_PEERS").map_or_else(
            || std::env::current_exe().map(|exe| exe.with_file_name("../peers")),
            |folder| Ok(PathBuf::from(folder)),
        )?;
        let start = peers.join("start");
        ensure!(start.exists(), "no peers: run `cargo xtask peers`");
        Self::start(|folder| {
            let mut command = Command::new(&start);
            let root = folder.join("root");
            command.arg(&root).arg(name);
            (command, root.join("run/xenstored/socket"))
        })
    }

    /// The socket's own limit: whole messages come back as they went.
    pub(super) fn echo(connections: usize) -> Result<Self> {
        let program = std::env::current_exe()?;
        Self::start(|folder| {
            let socket = folder.join("socket");
            let mut command = Command::new(&program);
            command
                .arg(ECHO_ROLE)
                .arg(&socket)
                .arg(connections.to_string());
            (command, socket)
        })
    }

    /// The limit of telling many: what one says, all hear.
    pub(super) fn fanout() -> Result<Self> {
        Self::echo(FANOUT)
    }

    fn start(of: impl FnOnce(&Path) -> (Command, PathBuf)) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (mut command, socket) = of(folder.path());
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let mut daemon = Self {
            child,
            socket,
            _folder: folder,
        };
        pin(Some(Pid::from_child(&daemon.child)), DAEMONS_CPU);
        daemon.await_socket()?;
        Ok(daemon)
    }

    fn await_socket(&mut self) -> Result<()> {
        let begun = Instant::now();
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("it ended at once: {status}");
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
                "it does not listen at {}",
                self.socket.display()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The memory that is its own, in bytes.
    pub(super) fn memory(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let kib: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("Private_Dirty:"))
            .and_then(|rest| rest.split_whitespace().next())
            .context("no Private_Dirty")?
            .parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the calling thread the generator: on a CPU of its own where there are several, with as many files as it may have.
pub(super) fn become_generator() {
    pin(None, GENERATOR_CPU);
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    // A row that needs more says so.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
}

/// Gives the calling thread all CPUs again.
pub(super) fn cease_generating() {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    // It only makes what follows slower.
    let _ = rustix::thread::sched_setaffinity(None, &all);
}

fn pin(who: Option<Pid>, cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu);
    // A machine with one CPU has no second one, and both share the first.
    let _ = rustix::thread::sched_setaffinity(who, &one);
}

/// The echo server: as bare as it can be written. One connection is served by read and write alone, several with epoll.
pub(crate) fn echo_main(socket: &Path, connections: usize) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    // The first connection only asks whether somebody listens.
    drop(listener.accept()?);
    let mut buffer = vec![0; 64 * 1024];
    if connections != 1 {
        return serve(&listener, connections == FANOUT, &mut buffer);
    }
    loop {
        let (mut client, _) = listener.accept()?;
        loop {
            let n = client.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            client.write_all(&buffer[..n])?;
        }
    }
}

fn serve(listener: &UnixListener, to_all: bool, buffer: &mut [u8]) -> Result<()> {
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let readable = epoll::EventFlags::IN;
    epoll::add(&poll, listener, epoll::EventData::new_u64(0), readable)?;
    let mut clients: Vec<UnixStream> = Vec::new();
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let n = usize::try_from(event.data.u64())?;
            let Some(client) = n.checked_sub(1).and_then(|n| clients.get(n)) else {
                while let Ok((client, _)) = listener.accept() {
                    clients.push(client);
                    let data = epoll::EventData::new_u64(clients.len() as u64);
                    epoll::add(&poll, clients.last().context("one")?, data, readable)?;
                }
                continue;
            };
            let n = { client }.read(buffer)?;
            if n == 0 {
                epoll::delete(&poll, client)?;
            } else if to_all {
                for mut client in &clients {
                    client.write_all(&buffer[..n])?;
                }
            } else {
                { client }.write_all(&buffer[..n])?;
            }
        }
    }
}
