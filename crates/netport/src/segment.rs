//! Cutting up a large TCP packet in software, for a receiver that takes only packets of the wire's size.

use std::fmt;

use crate::checksum::{self, Sum};
use crate::headers::{self, HEADERS_MAX, IpVersion, NoTransport, Protocol, Transport};
use crate::{Checksum, GsoKind, Offload};

/// The least payload that a segment may be asked to have, in bytes. With it, a frame of 64 KiB becomes 8192 segments at most, whatever its
/// sender says. Linux goes no lower: 48 bytes of segment (`tcp_min_snd_mss`) with 40 of options in it.
pub const SIZE_MIN: u16 = 8;

const IPV6_LEN: usize = 40;
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Why a frame cannot be cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSegmentable {
    /// It is not to be cut up.
    #[error("the frame is not one to be segmented")]
    NoGso,
    /// It carries something else than it is said to.
    #[error("the frame is not the {0:?} packet that its segmentation is for")]
    NoTcp(GsoKind),
    /// The segments are too small or too large to be packets.
    #[error("segments of {size} payload bytes cannot be made of the frame")]
    Size {
        /// The size asked for.
        size: u16,
    },
}

/// What is to become of the segments' TCP checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sums {
    /// They are computed.
    Complete,
    /// They hold the pseudo-header's sum, for a receiver that takes [`Checksum::Blank`].
    Blank,
}

/// The segments of a large TCP packet: its headers before each piece of its payload, changed to fit. What the packet's own length
/// fields and checksums say does not matter. Nothing is allocated.
///
/// ```
/// use cantle_netport::segment::{Segments, Sums};
/// # use cantle_netport::{Checksum, Gso, GsoKind, Offload};
/// # use cantle_netport::{headers::IpVersion, test_utils::Shape};
/// # let frame = Shape::tcp(IpVersion::V4, vec![7; 3000]).build(true);
/// # let gso = Gso { kind: GsoKind::TcpV4, size: 1448, header_len: 54, ecn: false };
/// # let checksum = Checksum::Blank { start: 34, offset: 16 };
/// # let offload = Offload { checksum, gso: Some(gso) };
/// let mut segments = Segments::new(&frame, &offload, Sums::Complete)?;
/// let mut buffer = vec![0; segments.max_len()];
/// let mut lens = Vec::new();
/// while let Some(len) = segments.next_into(&mut buffer) {
///     lens.push(len); // and send buffer[..len]
/// }
/// assert_eq!(lens, [54 + 1448, 54 + 1448, 54 + 104]);
/// # Ok::<(), cantle_netport::segment::NotSegmentable>(())
/// ```
#[must_use]
pub struct Segments<'a> {
    transport: Transport,
    /// The next segment's headers: `transport.payload` bytes of them.
    headers: [u8; HEADERS_MAX],
    /// What is left.
    payload: &'a [u8],
    size: usize,
    sequence: u32,
    identification: u16,
    flags: u8,
    sums: Sums,
    /// How many there are still.
    left: usize,
}

impl<'a> Segments<'a> {
    /// The segments of a frame, which ends with its payload. VLAN tags, IP options and extension headers are kept in each.
    ///
    /// The checksum of a packet with a routing header that has not been followed to its end is computed as if it had.
    ///
    /// # Errors
    ///
    /// [`NotSegmentable`] where the offload says no segmentation, or not one that goes with the bytes.
    pub fn new(frame: &'a [u8], offload: &Offload, sums: Sums) -> Result<Self, NotSegmentable> {
        let gso = offload.gso.ok_or(NotSegmentable::NoGso)?;
        let no_tcp = NotSegmentable::NoTcp(gso.kind);
        let transport = headers::transport(frame).map_err(|NoTransport| no_tcp)?;
        let version = match gso.kind {
            GsoKind::TcpV4 => IpVersion::V4,
            GsoKind::TcpV6 => IpVersion::V6,
        };
        if transport.protocol != Protocol::Tcp || transport.version != version {
            return Err(no_tcp);
        }
        let payload = frame.get(usize::from(transport.payload)..);
        let payload = payload.unwrap_or_default();
        let size = usize::from(gso.size);
        let largest = usize::from(transport.payload - transport.ip) + size.min(payload.len());
        if gso.size < SIZE_MIN || largest > usize::from(u16::MAX) {
            return Err(NotSegmentable::Size { size: gso.size });
        }
        let mut headers = [0; HEADERS_MAX];
        for (to, from) in headers.iter_mut().zip(frame) {
            *to = *from;
        }
        let (ip, start) = (usize::from(transport.ip), usize::from(transport.start));
        Ok(Self {
            transport,
            payload,
            size,
            sequence: u32::from_be_bytes(get(&headers, start + TCP_SEQUENCE)),
            identification: u16::from_be_bytes(get(&headers, ip + 4)),
            flags: u8::from_be_bytes(get(&headers, start + TCP_FLAGS)),
            headers,
            sums,
            // A packet without payload is one segment.
            left: payload.len().div_ceil(size).max(1),
        })
    }

    /// The longest segment's length in bytes, headers included.
    #[must_use]
    pub fn max_len(&self) -> usize {
        usize::from(self.transport.payload) + self.size.min(self.payload.len())
    }

    /// How many segments there are still; at most the payload's bytes divided by [`SIZE_MIN`].
    #[must_use]
    pub fn left(&self) -> usize {
        self.left
    }

    /// The metadata that goes with each segment.
    #[must_use]
    pub fn offload(&self) -> Offload {
        let checksum = match self.sums {
            Sums::Complete => Checksum::Present,
            Sums::Blank => Checksum::Blank {
                start: self.transport.start,
                offset: self.transport.checksum_offset(),
            },
        };
        Offload {
            checksum,
            gso: None,
        }
    }

    /// The next segment: its headers, and its payload where it lies in the frame. `None` after the last.
    #[must_use]
    pub fn next_parts(&mut self) -> Option<(&[u8], &'a [u8])> {
        self.left = self.left.checked_sub(1)?;
        let (payload, rest) = self
            .payload
            .split_at_checked(self.size)
            .unwrap_or((self.payload, &[]));
        self.payload = rest;
        self.fill_in(payload);
        // Where they fit, all these lengths do.
        self.sequence = self
            .sequence
            .wrapping_add(u32::try_from(payload.len()).unwrap_or(0));
        self.identification = self.identification.wrapping_add(1);
        self.flags &= !CWR;
        let headers = self.headers.get(..usize::from(self.transport.payload));
        Some((headers.unwrap_or_default(), payload))
    }

    /// Writes the next segment to the beginning of `out`, and returns its length. `None` after the last; and, with nothing
    /// written nor passed over, where `out` is shorter than [`max_len`](Self::max_len).
    #[must_use]
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<usize> {
        if out.len() < self.max_len() {
            return None;
        }
        let (headers, payload) = self.next_parts()?;
        let len = headers.len() + payload.len();
        out.get_mut(..headers.len())?.copy_from_slice(headers);
        out.get_mut(headers.len()..len)?.copy_from_slice(payload);
        Some(len)
    }

    /// Makes the headers those of the next segment.
    fn fill_in(&mut self, payload: &[u8]) {
        let Transport { ip, start, .. } = self.transport;
        let (ip, start) = (usize::from(ip), usize::from(start));
        let end = usize::from(self.transport.payload);
        let len = end - ip + payload.len();
        match self.transport.version {
            IpVersion::V4 => {
                put(&mut self.headers, ip + 2, half(len).to_be_bytes());
                put(&mut self.headers, ip + 4, self.identification.to_be_bytes());
                put(&mut self.headers, ip + 10, [0, 0]);
                let header = self.headers.get(ip..start).unwrap_or_default();
                let sum = !checksum::sum_parts([header]).value();
                put(&mut self.headers, ip + 10, sum.to_be_bytes());
            }
            IpVersion::V6 => {
                let len = half(len.saturating_sub(IPV6_LEN));
                put(&mut self.headers, ip + 4, len.to_be_bytes());
            }
        }
        let flags = if self.left == 0 {
            self.flags
        } else {
            self.flags & !(FIN | PSH)
        };
        put(
            &mut self.headers,
            start + TCP_SEQUENCE,
            self.sequence.to_be_bytes(),
        );
        put(&mut self.headers, start + TCP_FLAGS, [flags]);
        let field = start + usize::from(self.transport.checksum_offset());
        let pseudo = checksum::pseudo(&self.headers, &self.transport, end - start + payload.len());
        let pseudo = pseudo.unwrap_or_default().value();
        put(&mut self.headers, field, pseudo.to_be_bytes());
        if self.sums == Sums::Complete {
            let mut sum = Sum::default();
            sum.add(self.headers.get(start..end).unwrap_or_default());
            sum.add(payload);
            put(&mut self.headers, field, sum.field().to_be_bytes());
        }
    }
}

fn half(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// Bytes of the headers; zeros where they are not all there, which `Segments::new` has ruled out.
fn get<const N: usize>(headers: &[u8; HEADERS_MAX], at: usize) -> [u8; N] {
    let bytes = headers.get(at..).and_then(|rest| rest.first_chunk());
    bytes.copied().unwrap_or([0; N])
}

fn put<const N: usize>(headers: &mut [u8; HEADERS_MAX], at: usize, bytes: [u8; N]) {
    let field = headers
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut());
    if let Some(field) = field {
        *field = bytes;
    }
}

impl fmt::Debug for Segments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segments")
            .field("transport", &self.transport)
            .field("size", &self.size)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
