//! The descriptor under a client: a Unix socket, or the kernel's character device in a guest.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, Shutdown};

use super::machine::{Broken, Machine};
use crate::transport::socket_path;
use crate::wake::Wake;
use crate::wire::Message;

/// How much is read at once.
const READ_SIZE: usize = 64 << 10;

/// The kernel's xenstore in a guest, and under older kernels.
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/// No xenstore could be connected to.
#[derive(Debug, thiserror::Error)]
#[error("no xenstore at {}", path.display())]
pub struct ConnectError {
    /// Where it was looked for.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Why a connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The server closed it: it ended, or found the client at fault.
    #[error("the xenstore daemon closed the connection")]
    Closed,
    /// The kernel reported an error.
    #[error("the connection to the xenstore daemon failed: {0}")]
    Failed(io::ErrorKind),
    /// The server broke the protocol.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl From<Errno> for Lost {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::CONNRESET | Errno::PIPE => Self::Closed,
            errno => Self::Failed(errno.kind()),
        }
    }
}

/// Where xenstore is for this process, as libxenstore decides: the daemon's socket
/// ([`socket_path`](crate::transport::socket_path)), else the kernel's device, which `XENSTORED_PATH` replaces too.
#[must_use]
pub fn default_path() -> PathBuf {
    let socket = socket_path();
    if std::env::var_os("XENSTORED_PATH").is_some() || socket.exists() {
        return socket;
    }
    let device = DEVICES.iter().map(Path::new).find(|path| path.exists());
    device.map_or(socket, Path::to_path_buf)
}

/// An open connection. Nothing here blocks but [`wait`](Self::wait) and [`receive`](Self::receive).
#[derive(Debug)]
pub(super) enum Link {
    Socket(UnixStream),
    /// Opened with `O_NONBLOCK`. It takes exactly one message by each write, and cannot be shut down: `kick` wakes its reader.
    Device {
        file: File,
        kick: Wake,
    },
}

impl Link {
    /// Opens what is at `path`: a socket is connected to, anything else is a device.
    pub(super) fn open(path: &Path) -> Result<Self, ConnectError> {
        let open = || {
            if fs::metadata(path)?.file_type().is_socket() {
                return UnixStream::connect(path).map(Self::Socket);
            }
            let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(flags);
            Ok(Self::Device {
                file: options.open(path)?,
                kick: Wake::new()?,
            })
        };
        open().map_err(|source| ConnectError {
            path: path.to_owned(),
            source,
        })
    }

    /// Sends what the machine has, as far as it is taken now. Whether all of it was.
    pub(super) fn flush(&self, machine: &mut Machine) -> Result<bool, Lost> {
        loop {
            let bytes = machine.outgoing();
            if bytes.is_empty() {
                return Ok(true);
            }
            let sent = match self {
                Self::Socket(socket) => {
                    net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                }
                Self::Device { file, .. } => {
                    let len = Message::length(bytes).ok().flatten().unwrap_or(bytes.len());
                    rustix::io::write(file, bytes.get(..len).unwrap_or(bytes))
                }
            };
            match sent {
                Ok(len) => machine.sent(len),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Gives the machine what is there to be read, up to [`READ_SIZE`] bytes. Whether there was anything.
    pub(super) fn fill(&self, machine: &mut Machine, buffer: &mut Buffer) -> Result<bool, Lost> {
        match self.read(buffer, RecvFlags::DONTWAIT) {
            Ok(len) => self.took(machine, buffer, len).map(|()| true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for bytes, and reads them into `buffer`. `None` where it woke for another reason, or by a signal.
    pub(super) fn receive(&self, buffer: &mut Buffer) -> Result<Option<usize>, Errno> {
        if let Self::Device { .. } = self {
            self.wait(PollFlags::IN)?;
        }
        match self.read(buffer, RecvFlags::empty()) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Gives the machine the `len` bytes that were read into `buffer`; none are the connection's end.
    pub(super) fn took(
        &self,
        machine: &mut Machine,
        buffer: &Buffer,
        len: usize,
    ) -> Result<(), Lost> {
        match buffer.0.get(..len) {
            Some(bytes) if len > 0 => Ok(machine.feed(bytes)?),
            _ => Err(Lost::Closed),
        }
    }

    fn read(&self, buffer: &mut Buffer, flags: RecvFlags) -> Result<usize, Errno> {
        if buffer.0.is_empty() {
            buffer.0.resize(READ_SIZE, 0);
        }
        match self {
            Self::Socket(socket) => net::recv(socket, &mut buffer.0[..], flags).map(|(len, _)| len),
            Self::Device { file, .. } => rustix::io::read(file, &mut buffer.0[..]),
        }
    }

    /// Waits until the descriptor is ready for one of `events`, broken, or [shut](Self::shut).
    pub(super) fn wait(&self, events: PollFlags) -> Result<(), Errno> {
        let own = PollFd::from_borrowed_fd(self.as_fd(), events);
        let done = match self {
            Self::Socket(_) => poll(&mut [own], None),
            Self::Device { kick, .. } => {
                let kick = PollFd::from_borrowed_fd(kick.fd(), PollFlags::IN);
                poll(&mut [own, kick], None)
            }
        };
        match done {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Wakes whoever waits, for good.
    pub(super) fn shut(&self) {
        match self {
            // It fails only where the connection is closed already.
            Self::Socket(socket) => drop(net::shutdown(socket, Shutdown::Both)),
            Self::Device { kick, .. } => kick.raise(),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket) => socket.as_fd(),
            Self::Device { file, .. } => file.as_fd(),
        }
    }
}

/// Where bytes are read to; it has no memory before it is used.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<u8>);

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::thread;

    use cantle_abi::DomId;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;
    use crate::client::SocketClient;
    use crate::prelude::*;
    use crate::{Server, TxId};

    /// What stands in for the kernel's device: it keeps messages apart, as the device does.
    fn device() -> (Link, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::io::ioctl_fionbio(&ours, true).unwrap();
        let link = Link::Device {
            file: File::from(ours),
            kick: Wake::new().unwrap(),
        };
        (link, theirs)
    }

    #[test]
    fn the_device_gets_one_message_by_each_write() {
        let (link, theirs) = device();
        let client = &SocketClient::over(link, Path::new("")).unwrap();
        thread::scope(|scope| {
            let asking: Vec<_> = ["/a", "/b", "/c"]
                .map(|path| {
                    scope.spawn(move || {
                        for value in 0..100 {
                            let value = value.to_string();
                            client.write(TxId::NONE, path, value.as_bytes()).unwrap();
                            assert_eq!(client.read_string(TxId::NONE, path).unwrap(), value);
                        }
                    })
                })
                .into_iter()
                .collect();
            let mut server = Server::new();
            let conn = server.connect(DomId(0), true);
            let mut bytes = [0; 8192];
            for _ in 0..600 {
                let len = rustix::io::read(&theirs, &mut bytes).unwrap();
                assert_eq!(Message::length(&bytes[..len]), Ok(Some(len)));
                server.feed(conn, &bytes[..len]).unwrap();
                let out = server.output(conn, 8192);
                let sent = rustix::io::write(&theirs, out).unwrap();
                server.consume_output(conn, sent);
            }
            for thread in asking {
                thread.join().unwrap();
            }
        });
    }

    #[test]
    fn who_waits_for_a_device_can_be_woken() {
        let (link, _theirs) = device();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| link.receive(&mut Buffer::default()));
            link.shut();
            assert_eq!(waiting.join().unwrap(), Ok(None));
        });
    }
}
