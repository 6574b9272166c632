//! Networking without rights: `passt` (<https://passt.top>), which turns a guest's packets into the host's own sockets.

mod process;

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use process::Process;

use super::{Frame, NetDevice, NetPort, Received, StreamPort};
use crate::{Offloads, PartMut};

/// The largest frame that `passt` takes, in bytes.
const LARGE_MAX: usize = 65_535;

/// Why `passt` does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasstError {
    /// It is not installed.
    #[error("there is no program {} (apt install passt)", program.display())]
    NotInstalled {
        /// What was looked for.
        program: PathBuf,
    },
    /// It ended at once, mostly for an option that it does not like, or since the host itself has no network.
    #[error("passt ended with {status}: {complaint}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// What it said last.
        complaint: String,
    },
    /// One guest's interface is connected to it already.
    #[error("passt serves one queue only, which is open already")]
    InUse,
    /// It cannot be started.
    #[error("cannot start passt")]
    Start(#[source] io::Error),
}

/// What `passt` is told; each is the option of its name (`man passt`). What is not said is as `passt` has it: the guest gets the host's own address
/// and gateway by DHCP and router advertisements, and nothing is forwarded to it.
#[derive(Clone, Debug)]
pub struct PasstOptions {
    /// The program; by default `passt`, searched for in `PATH`.
    pub program: PathBuf,
    /// The guest's addresses, at most one of each kind (`--address`).
    pub addresses: Vec<IpAddr>,
    /// The gateways that it is told, at most one of each kind (`--gateway`).
    pub gateways: Vec<IpAddr>,
    /// The largest IP packet of the interface, in bytes, which the guest is told by DHCP (`--mtu`): up to 65520.
    pub mtu: Option<u16>,
    /// TCP ports of the host that are forwarded, such as `2222:22` (`--tcp-ports`).
    pub tcp_ports: Vec<String>,
    /// UDP ports of the host that are forwarded (`--udp-ports`).
    pub udp_ports: Vec<String>,
    /// Further options as they are.
    pub more: Vec<OsString>,
}

impl Default for PasstOptions {
    fn default() -> Self {
        Self {
            program: PathBuf::from("passt"),
            addresses: Vec::new(),
            gateways: Vec::new(),
            mtu: None,
            tcp_ports: Vec::new(),
            udp_ports: Vec::new(),
            more: Vec::new(),
        }
    }
}

impl PasstOptions {
    fn arguments(&self) -> Vec<OsString> {
        // Its end of our socket pair is its standard input: no other child of ours can get hold of it.
        let mut all: Vec<OsString> = ["--foreground", "--quiet", "--fd", "0"]
            .map(OsString::from)
            .to_vec();
        let mut add = |option: &str, value: String| {
            all.push(option.into());
            all.push(value.into());
        };
        for address in &self.addresses {
            add("--address", address.to_string());
        }
        for gateway in &self.gateways {
            add("--gateway", gateway.to_string());
        }
        if let Some(mtu) = self.mtu {
            add("--mtu", mtu.to_string());
        }
        for ports in &self.tcp_ports {
            add("--tcp-ports", ports.clone());
        }
        for ports in &self.udp_ports {
            add("--udp-ports", ports.clone());
        }
        all.extend(self.more.iter().cloned());
        all
    }
}

/// User-mode networking: `--net user`. Each time that a guest connects, a `passt` is started for it, which ends when the port is dropped, or
/// this process, however it ends: `passt` ends with the socket. (A death signal would not do: the kernel clears it when `passt`
/// gives up its rights, and sends it when the *thread* that started the child ends.)
#[derive(Debug)]
pub struct PasstDevice {
    options: PasstOptions,
    /// The one that was started to see whether it starts.
    first: Mutex<Option<PasstPort>>,
    open: Arc<Mutex<bool>>,
}

/// A queue whose other end is a `passt`.
#[derive(Debug)]
pub struct PasstPort {
    stream: StreamPort,
    // After the socket, by whose end it ends.
    process: Process,
    lease: Option<Lease>,
}

/// Says that the queue is open, until it is dropped.
#[derive(Debug)]
struct Lease(Arc<Mutex<bool>>);

impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl PasstPort {
    /// Starts `passt`. Waits a moment, in which it would find fault with its options.
    ///
    /// # Errors
    ///
    /// [`PasstError`], each a line that tells the user what to do.
    pub fn start(options: &PasstOptions) -> Result<Self, PasstError> {
        let (ours, theirs) = UnixStream::pair().map_err(PasstError::Start)?;
        let process = Process::start(&options.program, options.arguments(), theirs)?;
        let stream = StreamPort::new(ours).map_err(PasstError::Start)?;
        Ok(Self {
            stream: stream.with_large(LARGE_MAX),
            process,
            lease: None,
        })
    }

    /// Whether `passt` is still there.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stream.is_open()
    }
}

impl PasstDevice {
    /// Starts `passt` for the first time.
    ///
    /// # Errors
    ///
    /// [`PasstError`], each a line that tells the user what to do.
    pub fn new(options: PasstOptions) -> Result<Self, PasstError> {
        Ok(Self {
            first: Mutex::new(Some(PasstPort::start(&options)?)),
            options,
            open: Arc::default(),
        })
    }

    /// The queue, as [`NetDevice::open_queue`] gives it.
    ///
    /// # Errors
    ///
    /// [`PasstError`]: it is open already, or `passt` does not start any more.
    pub fn queue(&self) -> Result<PasstPort, PasstError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if *open {
            return Err(PasstError::InUse);
        }
        let first = self
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut port = match first.filter(|port| port.process.runs()) {
            Some(port) => port,
            None => PasstPort::start(&self.options)?,
        };
        *open = true;
        port.lease = Some(Lease(self.open.clone()));
        Ok(port)
    }
}

impl NetDevice for PasstDevice {
    fn queues_max(&self) -> u32 {
        1
    }

    fn open_queue(&self) -> io::Result<Box<dyn NetPort>> {
        let queue = self.queue().map_err(io::Error::other)?;
        Ok(Box::new(queue))
    }

    fn mtu(&self) -> Option<u16> {
        self.options.mtu
    }
}

impl NetPort for PasstPort {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        self.stream.send(batch);
    }

    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        self.stream.receive(into)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.fd()
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.stream.accept(offloads)
    }
}

#[cfg(test)]
mod tests;
