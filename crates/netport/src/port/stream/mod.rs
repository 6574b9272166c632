//! Frames over a Unix stream socket, each with its length before it: QEMU's `-netdev stream`, and what `passt` speaks.

mod framing;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use framing::{Incoming, Outgoing};
use rustix::event::epoll;
use tracing::warn;

use super::pieces::{finish, gather, scatter};
use super::{Frame, NetPort, Received};
use crate::{Offload, Offloads, PartMut};

/// A connected stream socket that frames go over. It never blocks: what the peer does not take in time is lost, in whole frames. A peer that
/// does not keep to the form, or goes away, closes the port for good.
///
/// The peer knows nothing of offloads: checksums are completed here, and large frames are cut up, but for those that the peer is
/// said to take as they are ([`with_large`](Self::with_large)).
#[derive(Debug)]
pub struct StreamPort {
    /// Nothing once the peer has broken off.
    socket: Option<UnixStream>,
    /// Readable when the socket is, or when it is writable while something waits to be written.
    events: OwnedFd,
    /// Whether `events` looks for the socket to be writable.
    awaits_room: bool,
    large_max: usize,
    incoming: Incoming,
    outgoing: Outgoing,
    whole: Vec<u8>,
    segment: Vec<u8>,
}

impl StreamPort {
    /// Takes a connected socket.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        epoll::add(&events, &socket, data, epoll::EventFlags::IN)?;
        Ok(Self {
            socket: Some(socket),
            events,
            awaits_room: false,
            large_max: 0,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            whole: Vec::new(),
            segment: Vec::new(),
        })
    }

    /// Connects to a socket that somebody listens on: QEMU with `-netdev stream,server=on`, `passt`.
    ///
    /// # Errors
    ///
    /// Nobody does.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::new(UnixStream::connect(path)?)
    }

    /// Says that the peer takes frames of up to so many bytes, however small its MTU: a large TCP packet is then sent as it is, with its
    /// checksum.
    #[must_use]
    pub fn with_large(mut self, max: usize) -> Self {
        self.large_max = max;
        self
    }

    /// Whether the peer is still there.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Appends one frame as the peer can take it; false where it cannot be made so.
    fn append(&mut self, frame: &Frame<'_>, index: usize) -> bool {
        self.whole.clear();
        if !gather(frame, &mut self.whole) {
            return false;
        }
        let large = frame.len <= self.large_max;
        let accepted = Offloads {
            checksum: false,
            tso_v4: large,
            tso_v6: large,
        };
        let (whole, segment, outgoing) = (&mut self.whole, &mut self.segment, &mut self.outgoing);
        finish(whole, &frame.offload, accepted, segment, |bytes, _| {
            outgoing.push(bytes, index);
        })
    }

    /// Writes what waits, as far as the peer takes it, and drops the frames that are not begun; each one's index is given to `lost`.
    fn flush(&mut self, lost: impl FnMut(usize)) {
        let Some(socket) = &self.socket else {
            self.outgoing.drop_unbegun(lost);
            return;
        };
        let written = self.outgoing.write(socket);
        self.outgoing.drop_unbegun(lost);
        if let Err(error) = written {
            self.close(&error);
            return;
        }
        let awaits = !self.outgoing.is_empty();
        if awaits != self.awaits_room {
            let flags = if awaits {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            let data = epoll::EventData::new_u64(0);
            match epoll::modify(&self.events, socket, data, flags) {
                Ok(()) => self.awaits_room = awaits,
                Err(error) => self.close(&error.into()),
            }
        }
    }

    fn close(&mut self, why: &io::Error) {
        if let Some(socket) = self.socket.take() {
            warn!(%why, "the peer of a stream port is given up");
            // Should someone else have the socket as well.
            let _ = epoll::delete(&self.events, &socket);
        }
        self.outgoing = Outgoing::default();
        self.incoming = Incoming::default();
    }

    /// The next frame, into the parts.
    fn next(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        let Some(socket) = &self.socket else {
            return Ok(Received::Nothing);
        };
        let Some(frame) = self.incoming.next(socket)? else {
            return Ok(Received::Nothing);
        };
        Ok(if scatter(frame, into) {
            Received::Frame {
                len: frame.len(),
                offload: Offload::default(),
            }
        } else {
            Received::Lost
        })
    }
}

impl NetPort for StreamPort {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        if !self.outgoing.is_empty() {
            self.flush(|_| {});
        }
        // A frame whose end still waits goes first; until it has, all others are lost.
        let stuck = !self.outgoing.is_empty() || self.socket.is_none();
        for frame in &mut *batch {
            frame.taken = !stuck;
        }
        if stuck {
            return;
        }
        for index in 0..batch.len() {
            if let Some(frame) = batch.get_mut(index) {
                frame.taken = self.append(frame, index);
            }
            let full = self.outgoing.len() >= framing::WRITE_FROM;
            if full || index + 1 == batch.len() {
                let mut refused = false;
                self.flush(|lost| {
                    if let Some(frame) = batch.get_mut(lost) {
                        frame.taken = false;
                    }
                    refused = true;
                });
                if refused || !self.outgoing.is_empty() || self.socket.is_none() {
                    for frame in batch.iter_mut().skip(index + 1) {
                        frame.taken = false;
                    }
                    return;
                }
            }
        }
    }

    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        if !self.outgoing.is_empty() {
            self.flush(|_| {});
        }
        let received = self.next(into);
        if let Err(error) = &received {
            self.close(error);
        }
        received
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.as_fd())
    }

    fn accept(&mut self, _offloads: Offloads) -> io::Result<()> {
        // The peer's frames are whole and summed, whatever the guest takes.
        Ok(())
    }
}

#[cfg(test)]
mod tests;
