//! A client at a Unix socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::end::{Got, INPUT};
use super::peer::Peer;
use super::slots::Key;

/// A connected stream socket, which never blocks.
#[derive(Debug)]
pub(super) struct SocketEnd {
    socket: OwnedFd,
    pub(super) peer: Peer,
    /// The kernel is asked to tell when there is room again.
    awaits_room: bool,
    /// The other side has closed: an end will be read sooner or later, and no further event comes before it.
    hung_up: bool,
}

impl SocketEnd {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let peer = Peer::of(socket.as_fd())?;
        Ok(Self {
            socket,
            peer,
            awaits_room: false,
            hung_up: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn hung_up(&mut self) {
        self.hung_up = true;
    }

    /// Reads once. A short reading means that there is no more: the next byte is an event.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Got> {
        let room = buffer.len();
        match rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Ok(Got::End),
            Ok((len, _)) => Ok(Got::Bytes(len, len == room || self.hung_up)),
            Err(Errno::AGAIN) => Ok(Got::Bytes(0, false)),
            Err(Errno::INTR) => Ok(Got::Bytes(0, true)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends as much as there is room for.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::net::send(
            &self.socket,
            bytes,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Ok(len) => Ok(len),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Asks to be told when there is room for output, or no longer.
    pub(super) fn await_room(
        &mut self,
        epoll: &OwnedFd,
        key: Key,
        lacking: bool,
    ) -> io::Result<()> {
        if self.awaits_room != lacking {
            self.awaits_room = lacking;
            let flags = if lacking {
                INPUT | EventFlags::OUT
            } else {
                INPUT
            };
            let data = EventData::new_u64(key.to_u64());
            epoll::modify(epoll, &self.socket, data, flags)?;
        }
        Ok(())
    }
}
