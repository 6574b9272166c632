//! Who is at the other end of a socket.

use std::io;
use std::os::fd::BorrowedFd;

/// Who is at the other end of a socket, as the kernel knows it: at the time of its `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Peer {
    pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let found = rustix::net::sockopt::socket_peercred(socket)?;
        Ok(Self {
            pid: found.pid.as_raw_nonzero().get(),
            uid: found.uid.as_raw(),
            gid: found.gid.as_raw(),
        })
    }
}
