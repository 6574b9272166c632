//! The daemon's listening socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Listens at `path`, for the file's owner only (mode 0600, from the first moment), without blocking.
///
/// A socket file that nobody listens at any more is replaced. Two daemons that start at once do not take it from each
/// other: each looks and acts under a lock on the directory, which the kernel lifts should it die.
///
/// # Errors
///
/// `EADDRINUSE` where somebody listens there, or where the file is no socket; else what the kernel says about the path.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    bind_as(path, SocketType::STREAM).map(UnixListener::from)
}

/// As [`bind`], for the socket of the [attach protocol](super::attach).
///
/// # Errors
///
/// As for [`bind`].
pub fn bind_for_vmms(path: &Path) -> io::Result<OwnedFd> {
    bind_as(path, SocketType::SEQPACKET)
}

fn bind_as(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = fs::open(parent, flags, Mode::empty())?;
    fs::flock(&directory, FlockOperation::LockExclusive)?;
    clear(path)?;
    let socket = net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // The file is made with the socket's own mode, so that there is no moment in which others may connect.
    fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Removes what a dead daemon left.
fn clear(path: &Path) -> io::Result<()> {
    let in_use = || io::Error::from(rustix::io::Errno::ADDRINUSE);
    let found = match fs::statat(fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        return Err(in_use());
    }
    // Only a refusal says that nobody listens: a queue that is full, say, is somebody's.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Err(in_use()),
    }
    match fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
