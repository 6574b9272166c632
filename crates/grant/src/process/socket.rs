//! The socket between a broker and a back end: whole messages, with descriptors where they are expected.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg,
    sendmsg, socketpair,
};

use super::protocol::MAX_MESSAGE;

/// The most descriptors of one message.
pub(super) const MAX_FDS: usize = 64;

/// A connected pair of sockets: one for the broker, one for the back end's process. Both are closed at `exec`.
///
/// # Errors
///
/// The system's.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Sends a message; never waits where `wait` is false.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: bool,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut flags = SendFlags::NOSIGNAL;
    if !wait {
        flags |= SendFlags::DONTWAIT;
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(socket, &[IoSlice::new(message)], &mut control, flags)
    })?;
    if sent == message.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// The next message; `None` where the other end is closed, or said nothing. Descriptors that come with it are not let in.
pub(super) fn receive<'a>(
    socket: BorrowedFd<'_>,
    room: &'a mut [u8; MAX_MESSAGE],
    wait: bool,
) -> io::Result<Option<&'a [u8]>> {
    let mut flags = RecvFlags::TRUNC;
    if !wait {
        flags |= RecvFlags::DONTWAIT;
    }
    let (_, len) = match rustix::io::retry_on_intr(|| recv(socket, &mut room[..], flags)) {
        Ok(received) => received,
        Err(Errno::CONNRESET | Errno::PIPE) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    message(room, len)
}

/// The next message, with the descriptors that came with it.
pub(super) fn receive_fds<'a>(
    socket: BorrowedFd<'_>,
    room: &'a mut [u8; MAX_MESSAGE],
) -> io::Result<Option<(&'a [u8], Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::TRUNC | RecvFlags::CMSG_CLOEXEC;
    let received = {
        let mut iov = [IoSliceMut::new(&mut room[..])];
        rustix::io::retry_on_intr(|| recvmsg(socket, &mut iov, &mut control, flags))?
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more descriptors than expected",
        ));
    }
    Ok(message(room, received.bytes)?.map(|message| (message, fds)))
}

fn message(room: &[u8; MAX_MESSAGE], len: usize) -> io::Result<Option<&[u8]>> {
    match room.get(..len) {
        Some([]) => Ok(None),
        Some(message) => Ok(Some(message)),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message that is too long",
        )),
    }
}

/// How long a receiver waits for the other end; `None` for ever.
pub(super) fn set_patience(socket: impl AsFd, patience: Option<Duration>) -> io::Result<()> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    Ok(set_socket_timeout(socket, Timeout::Recv, patience)?)
}
