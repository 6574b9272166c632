//! The VMM's end of the attach socket.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use cantle_abi::{DomId, Errno};
use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, sendmsg, socket_with,
};
use zerocopy::IntoBytes;

use super::Introduction;
use super::message::{Message, Packet};

/// Why the daemon does not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The daemon refused: `EEXIST` for a domain that is introduced already, `EINVAL` for a page or descriptors that cannot be used,
    /// `ENOENT` for a release of what this connection did not introduce.
    #[error("the xenstore daemon refused: {0}")]
    Refused(Errno),
    /// The daemon said what is not the protocol.
    #[error("the xenstore daemon does not speak this protocol")]
    Protocol,
    /// The daemon is gone, or was never there.
    #[error("the xenstore daemon cannot be reached")]
    Io(#[from] io::Error),
}

/// A VMM's connection to a xenstore daemon. What was introduced on it is released when it is dropped.
#[derive(Debug)]
pub struct Vmm(OwnedFd);

impl Vmm {
    /// Connects to the socket that the daemon was given as `--domains`.
    ///
    /// # Errors
    ///
    /// [`AttachError::Io`].
    pub fn connect(path: &Path) -> Result<Self, AttachError> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(io::Error::from)?;
        let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
        connect(&socket, &address).map_err(io::Error::from)?;
        Ok(Self(socket))
    }

    /// Has a guest's ring served. Returns when the page is mapped and the eventfds are heeded. The descriptors remain the caller's.
    ///
    /// The eventfds should be non-blocking (the daemon makes them so). `memory` must be sealed against shrinking; see the module.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn introduce(
        &self,
        guest: &Introduction,
        memory: BorrowedFd<'_>,
        wake: BorrowedFd<'_>,
        notify: BorrowedFd<'_>,
    ) -> Result<(), AttachError> {
        self.ask(Message::Introduce(*guest), &[memory, wake, notify])
    }

    /// A guest is gone: its connection ends, its nodes go, `@releaseDomain` is told.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn release(&self, domid: DomId) -> Result<(), AttachError> {
        self.ask(Message::Release(domid), &[])
    }

    fn ask(&self, message: Message, fds: &[BorrowedFd<'_>]) -> Result<(), AttachError> {
        let packet = message.emit();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(AttachError::Protocol);
        }
        let iov = [IoSlice::new(packet.as_bytes())];
        rustix::io::retry_on_intr(|| sendmsg(&self.0, &iov, &mut control, SendFlags::NOSIGNAL))
            .map_err(io::Error::from)?;
        let mut bytes = [0; size_of::<Packet>() + 1];
        let (_, len) =
            rustix::io::retry_on_intr(|| recv(&self.0, &mut bytes[..], RecvFlags::empty()))
                .map_err(io::Error::from)?;
        if len == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match bytes.get(..len).and_then(Message::parse) {
            Some(Message::Answer(result)) => result.map_err(AttachError::Refused),
            _ => Err(AttachError::Protocol),
        }
    }
}

impl AsFd for Vmm {
    /// Readable (with an end of file) when the daemon is gone. Not to be read from.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
