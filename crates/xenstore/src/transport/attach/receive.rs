//! The daemon's end of a VMM's socket.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cantle_abi::{DomId, Errno};
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};
use zerocopy::IntoBytes;

use super::Introduction;
use super::message::{Message, Packet};

/// The descriptors of an introduction.
#[derive(Debug)]
pub struct Descriptors {
    /// The memory file that has the page.
    pub memory: OwnedFd,
    /// The eventfd that is readable when the guest has notified its channel.
    pub wake: OwnedFd,
    /// The eventfd that is written to notify the guest.
    pub notify: OwnedFd,
}

/// What a VMM wants. Nothing in it is checked but its form.
#[derive(Debug)]
#[non_exhaustive]
pub enum Order {
    /// Serve a guest's ring.
    Introduce(Introduction, Descriptors),
    /// The guest is gone.
    Release(DomId),
}

/// Why nothing more is to be expected of a VMM's socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The VMM closed it.
    #[error("closed")]
    Closed,
    /// A packet that is none, or comes with the wrong descriptors.
    #[error("not the attach protocol")]
    Protocol,
    /// The system's error.
    #[error("cannot be read")]
    Io(#[source] io::Error),
}

/// One VMM's connection.
#[derive(Debug)]
pub struct VmmSocket(OwnedFd);

impl VmmSocket {
    /// Uses a connection that was accepted on a `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The next order; `None` where there is none now. Never waits. Each is to be [answered](Self::answer).
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]: the connection is of no more use.
    pub fn receive(&self) -> Result<Option<Order>, ReceiveError> {
        let mut bytes = [0; size_of::<Packet>() + 1];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = {
            let mut iov = [IoSliceMut::new(&mut bytes)];
            match rustix::io::retry_on_intr(|| recvmsg(&self.0, &mut iov, &mut control, flags)) {
                Ok(received) => received,
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::CONNRESET) => return Err(ReceiveError::Closed),
                Err(errno) => return Err(ReceiveError::Io(errno.into())),
            }
        };
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ReceiveError::Protocol);
        }
        match bytes.get(..received.bytes) {
            Some([]) => Err(ReceiveError::Closed),
            Some(packet) => order(packet, fds).map(Some).ok_or(ReceiveError::Protocol),
            None => Err(ReceiveError::Protocol),
        }
    }

    /// Answers the oldest order that is not answered. A VMM that does not read its answers loses them.
    ///
    /// # Errors
    ///
    /// The system's, for a connection that is of no more use.
    pub fn answer(&self, result: Result<(), Errno>) -> io::Result<()> {
        let packet = Message::Answer(result).emit();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| send(&self.0, packet.as_bytes(), flags))?;
        Ok(())
    }
}

fn order(packet: &[u8], fds: Vec<OwnedFd>) -> Option<Order> {
    match (Message::parse(packet)?, <[OwnedFd; 3]>::try_from(fds)) {
        (Message::Introduce(introduction), Ok([memory, wake, notify])) => {
            let descriptors = Descriptors {
                memory,
                wake,
                notify,
            };
            Some(Order::Introduce(introduction, descriptors))
        }
        (Message::Release(domid), Err(fds)) if fds.is_empty() => Some(Order::Release(domid)),
        _ => None,
    }
}

impl AsFd for VmmSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<VmmSocket> for OwnedFd {
    fn from(socket: VmmSocket) -> Self {
        socket.0
    }
}
