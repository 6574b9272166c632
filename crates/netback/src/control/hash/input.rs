//! What is hashed of a packet, and where it is.

use crate::control::INPUT_MAX;
use crate::headers::{self, IpVersion, Protocol, Transport};

/// What is hashed of a packet.
#[derive(Default)]
pub(super) struct Input {
    buffer: [[u8; 4]; INPUT_MAX / 4],
    words: usize,
}

impl Input {
    /// Adds `len` bytes of a frame, a multiple of 4; `None` where it ends before.
    pub(super) fn add(&mut self, frame: &[u8], at: usize, len: usize) -> Option<()> {
        let (words, _) = frame.get(at..at.checked_add(len)?)?.as_chunks::<4>();
        let own = self
            .buffer
            .get_mut(self.words..self.words.checked_add(words.len())?)?;
        own.copy_from_slice(words);
        self.words += words.len();
        Some(())
    }

    /// Adds the addresses of the IP packet that begins at `ip`, the source first.
    pub(super) fn addresses(&mut self, frame: &[u8], version: IpVersion, ip: usize) -> Option<()> {
        match version {
            IpVersion::V4 => self.add(frame, ip + 12, 8),
            IpVersion::V6 => self.add(frame, ip + 8, 32),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer
            .get(..self.words)
            .unwrap_or_default()
            .as_flattened()
    }
}

/// A frame's TCP header, if it has one.
pub(super) fn tcp_of(frame: &[u8]) -> Option<Transport> {
    let transport = headers::transport(frame).ok()?;
    (transport.protocol == Protocol::Tcp).then_some(transport)
}

/// Where a frame's IP packet begins, whatever it carries; VLAN tags are passed over.
pub(super) fn network(frame: &[u8]) -> Option<(IpVersion, usize)> {
    let version = headers::ip_version(frame)?;
    // The frame's type is one of IP: it is the first of the types at these places that is not a VLAN tag's.
    let is_tag = |at: usize| matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
    let kind = [12, 16, 20].into_iter().find(|at| !is_tag(*at))?;
    let ip = kind + 2;
    let nibble = match version {
        IpVersion::V4 => 4,
        IpVersion::V6 => 6,
    };
    (frame.get(ip)? >> 4 == nibble).then_some((version, ip))
}
