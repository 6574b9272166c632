//! One queue of an interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::Lease;
use super::socket::{Came, HEADER_LEN, Socket, TAG_LEN};
use crate::port::pieces::{Pending, finish, gather, scatter};
use crate::port::vectored::Vectored;
use crate::port::{FRAME_MAX, Frame, NetPort, Received};
use crate::vnet::{self, VNET_HDR_LEN};
use crate::{Checksum, Offload, Offloads, Part, PartMut};

/// The addresses before a VLAN tag.
const ADDRESSES_LEN: usize = 12;
/// Frames of one call that are passed over: this host's own.
const ECHOES_MAX: u32 = 64;

/// One queue of a [`PacketDevice`](super::PacketDevice).
///
/// The kernel cannot be told what the guest takes, so what it does not is done here: checksums and segments, both ways. A VLAN tag that the
/// kernel took out of a frame is put back.
#[derive(Debug)]
pub struct PacketPort {
    socket: Socket,
    vectored: Vectored,
    accepted: Offloads,
    /// A frame as it comes: the header, the frame. A VLAN tag fits where the header was.
    buffer: Vec<u8>,
    pending: Pending,
    /// A frame that the kernel did not take as it was, and its segments.
    whole: Vec<u8>,
    segment: Vec<u8>,
    _lease: Lease,
}

impl PacketPort {
    pub(super) fn new(socket: Socket, lease: Lease) -> Self {
        Self {
            socket,
            vectored: Vectored::default(),
            accepted: Offloads::NONE,
            buffer: vec![0; HEADER_LEN + FRAME_MAX],
            pending: Pending::default(),
            whole: Vec::new(),
            segment: Vec::new(),
            _lease: lease,
        }
    }

    fn send_one(&mut self, frame: &Frame<'_>) -> bool {
        let header = header(&frame.offload);
        let fd = self.socket.as_fd();
        let Err(error) = self.vectored.write(fd, &header, frame.parts) else {
            return true;
        };
        let refused = matches!(
            error.raw_os_error(),
            Some(libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP)
        );
        self.whole.clear();
        if !refused || Offloads::NONE.takes(&frame.offload) || !gather(frame, &mut self.whole) {
            return false;
        }
        let plain = header_of_plain();
        let (vectored, socket) = (&mut self.vectored, &self.socket);
        let mut taken = true;
        let done = finish(
            &mut self.whole,
            &frame.offload,
            Offloads::NONE,
            &mut self.segment,
            |segment, _| {
                let parts = [Part::from(segment)];
                taken &= vectored.write(socket.as_fd(), &plain, &parts).is_ok();
            },
        );
        done && taken
    }

    fn give(pending: &mut Pending, into: &mut [PartMut<'_>]) -> Option<Received> {
        let (bytes, offload) = pending.pop()?;
        Some(if scatter(bytes, into) {
            let len = bytes.len();
            Received::Frame { len, offload }
        } else {
            Received::Lost
        })
    }
}

fn header(offload: &Offload) -> [u8; HEADER_LEN] {
    let header = vnet::emit(offload);
    header.first_chunk().copied().unwrap_or_default()
}

fn header_of_plain() -> [u8; HEADER_LEN] {
    header(&Offload::default())
}

/// Puts a VLAN tag back into a frame that begins `TAG_LEN` bytes into `room`; the frame is then all of it.
fn put_back(room: &mut [u8], tag: [u8; TAG_LEN], offload: &mut Offload) {
    room.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
    if let Some(place) = room.get_mut(ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN) {
        place.copy_from_slice(&tag);
    }
    if let Checksum::Blank { start, .. } = &mut offload.checksum {
        *start = start.saturating_add(4);
    }
    if let Some(gso) = &mut offload.gso
        && gso.header_len != 0
    {
        gso.header_len = gso.header_len.saturating_add(4);
    }
}

impl NetPort for PacketPort {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        for frame in batch {
            frame.taken = self.send_one(frame);
        }
    }

    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        if let Some(received) = Self::give(&mut self.pending, into) {
            return Ok(received);
        }
        for _ in 0..ECHOES_MAX {
            let (len, tag) = match self.socket.receive(&mut self.buffer)? {
                Came::Frame { len, tag } => (len, tag),
                Came::Echo => continue,
                Came::Lost => return Ok(Received::Lost),
                Came::Nothing => return Ok(Received::Nothing),
            };
            let mut header = [0; VNET_HDR_LEN];
            for (to, from) in header.iter_mut().zip(self.buffer.iter().take(HEADER_LEN)) {
                *to = *from;
            }
            let room = self.buffer.get_mut(HEADER_LEN - TAG_LEN..len);
            let (Some(room), Some(mut offload)) = (room, vnet::parse(&header)) else {
                return Ok(Received::Lost);
            };
            if room.len() < TAG_LEN + ADDRESSES_LEN {
                return Ok(Received::Lost);
            }
            let frame = match tag {
                Some(tag) => {
                    put_back(room, tag, &mut offload);
                    room
                }
                None => room.get_mut(TAG_LEN..).unwrap_or_default(),
            };
            if self.accepted.takes(&offload) {
                let len = frame.len();
                return Ok(if scatter(frame, into) {
                    Received::Frame { len, offload }
                } else {
                    Received::Lost
                });
            }
            if !self.pending.push(frame, &offload, self.accepted) {
                return Ok(Received::Lost);
            }
            return Ok(Self::give(&mut self.pending, into).unwrap_or(Received::Lost));
        }
        // There may be more.
        Ok(Received::Lost)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.accepted = offloads;
        Ok(())
    }
}
