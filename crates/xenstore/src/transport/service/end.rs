//! The service's end of a connection.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::ring::RingEnd;
use super::slots::Key;
use super::socket::SocketEnd;
use crate::transport::ring::RingFault;

/// What is always asked for: to be told once of everything that comes. Room for output is asked for only while it lacks,
/// since else each reply that is read would wake us.
pub(super) const INPUT: EventFlags = EventFlags::IN
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

#[derive(Debug)]
pub(super) enum End {
    Socket(SocketEnd),
    Ring(RingEnd),
}

impl End {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket) => socket.fd(),
            Self::Ring(ring) => ring.fd(),
        }
    }

    pub(super) fn register(&self, epoll: &OwnedFd, key: Key) -> io::Result<()> {
        let data = EventData::new_u64(key.to_u64());
        Ok(epoll::add(epoll, self.fd(), data, INPUT)?)
    }

    /// Takes some of what the other side has sent, by one call.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Got {
        match self {
            // An error of a stream socket is its end: nothing comes after a reset.
            Self::Socket(socket) => socket.read(buffer).unwrap_or(Got::End),
            Self::Ring(ring) => ring.read(buffer),
        }
    }

    /// Gives the other side as much as it has room for; whether it is told when there is room is seen to by
    /// [`await_room`](Self::await_room). An error is the end of the connection.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.send(bytes),
            Self::Ring(ring) => Ok(ring.write(bytes)),
        }
    }

    /// Asks to be told when there is room, or no longer. A guest tells of itself.
    pub(super) fn await_room(
        &mut self,
        epoll: &OwnedFd,
        key: Key,
        lacking: bool,
    ) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.await_room(epoll, key, lacking),
            Self::Ring(_) => Ok(()),
        }
    }

    pub(super) fn as_ring(&mut self) -> Option<&mut RingEnd> {
        match self {
            Self::Socket(_) => None,
            Self::Ring(ring) => Some(ring),
        }
    }
}

/// What one reading found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// So many bytes, and whether there may be more.
    Bytes(usize, bool),
    /// The other side sends no more.
    End,
    /// A guest wants a new connection.
    Reset,
    /// A guest broke its ring.
    Broken(RingFault),
}
