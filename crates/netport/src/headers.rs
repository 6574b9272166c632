//! Finding a frame's transport header: what a blank checksum and a large packet need.
//!
//! The parser is our own, and not a crate's, for three reasons: it looks at a handful of fields only, it must be bounded
//! whatever the bytes are, and it must also find the place to *write* a sum to. No byte is read before its place is checked.

/// As many bytes of a frame as are looked at: Ethernet, two VLAN tags, IP with options or extension headers, TCP with options.
pub const HEADERS_MAX: usize = 256;

const ETHERNET_LEN: usize = 14;
const VLAN_TAGS_MAX: u32 = 2;
const EXTENSIONS_MAX: u32 = 8;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;

const HOP_BY_HOP: u8 = 0;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where a frame's transport header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Which IP carries it.
    pub version: IpVersion,
    /// Where the IP header starts, in bytes from the frame's first.
    pub ip: u16,
    /// Which protocol it is.
    pub protocol: Protocol,
    /// Where it starts, in bytes from the frame's first: what a checksum is computed from.
    pub start: u16,
    /// Where the payload starts, in bytes from the frame's first.
    pub payload: u16,
    /// TCP's CWR flag.
    pub cwr: bool,
}

impl Transport {
    /// Where the checksum field is, in bytes from `start`.
    #[must_use]
    pub const fn checksum_offset(&self) -> u16 {
        match self.protocol {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
        }
    }
}

/// The frame is not one whose transport checksum we could compute: another protocol, a fragment, cut short, or its headers
/// go on past [`HEADERS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTransport;

/// Finds the transport header of an Ethernet frame, of which the first `min(length, HEADERS_MAX)` bytes are given.
///
/// # Errors
///
/// [`NoTransport`] where there is none that we know, or it is not wholly within `frame`.
pub fn transport(frame: &[u8]) -> Result<Transport, NoTransport> {
    let frame = frame.get(..HEADERS_MAX).unwrap_or(frame);
    let (kind, ip) = ethertype(frame).ok_or(NoTransport)?;
    let (version, protocol, start) = match kind {
        ETH_P_IP => ipv4(frame, ip),
        ETH_P_IPV6 => ipv6(frame, ip),
        _ => None,
    }
    .ok_or(NoTransport)?;
    let (protocol, payload, cwr) = match protocol {
        IPPROTO_TCP => {
            let words = usize::from(byte(frame, start + 12).ok_or(NoTransport)? >> 4);
            let flags = byte(frame, start + 13).ok_or(NoTransport)?;
            if words < 5 {
                return Err(NoTransport);
            }
            (Protocol::Tcp, start + words * 4, flags & 0x80 != 0)
        }
        IPPROTO_UDP => (Protocol::Udp, start + 8, false),
        _ => return Err(NoTransport),
    };
    if payload > frame.len() {
        return Err(NoTransport);
    }
    let place = |at: usize| u16::try_from(at).map_err(|_| NoTransport);
    Ok(Transport {
        version,
        ip: place(ip)?,
        protocol,
        start: place(start)?,
        payload: place(payload)?,
        cwr,
    })
}

/// Which IP a frame carries, if any; VLAN tags are passed over.
#[must_use]
pub fn ip_version(frame: &[u8]) -> Option<IpVersion> {
    match ethertype(frame)?.0 {
        ETH_P_IP => Some(IpVersion::V4),
        ETH_P_IPV6 => Some(IpVersion::V6),
        _ => None,
    }
}

fn byte(frame: &[u8], at: usize) -> Option<u8> {
    frame.get(at).copied()
}

fn half(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([byte(frame, at)?, byte(frame, at + 1)?]))
}

/// The payload's type and where it starts.
fn ethertype(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETHERNET_LEN;
    let mut kind = half(frame, at - 2)?;
    for _ in 0..VLAN_TAGS_MAX {
        if kind != ETH_P_8021Q && kind != ETH_P_8021AD {
            break;
        }
        at += 4;
        kind = half(frame, at - 2)?;
    }
    Some((kind, at))
}

/// The protocol in an IPv4 packet, and where it starts; `None` for fragments.
fn ipv4(frame: &[u8], ip: usize) -> Option<(IpVersion, u8, usize)> {
    let first = byte(frame, ip)?;
    let header = usize::from(first & 0xf) * 4;
    let fragment = half(frame, ip + 6)?;
    let protocol = byte(frame, ip + 9)?;
    // More fragments, or not the first.
    let whole = fragment & 0x3fff == 0;
    (first >> 4 == 4 && header >= 20 && whole).then_some((IpVersion::V4, protocol, ip + header))
}

/// The protocol after an IPv6 packet's extension headers, and where it starts; `None` for fragments and unknown extensions.
fn ipv6(frame: &[u8], ip: usize) -> Option<(IpVersion, u8, usize)> {
    if byte(frame, ip)? >> 4 != 6 {
        return None;
    }
    let mut next = byte(frame, ip + 6)?;
    let mut at = ip + 40;
    for _ in 0..=EXTENSIONS_MAX {
        let len = match next {
            IPPROTO_TCP | IPPROTO_UDP => return Some((IpVersion::V6, next, at)),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                (usize::from(byte(frame, at + 1)?) + 1) * 8
            }
            AUTHENTICATION => (usize::from(byte(frame, at + 1)?) + 2) * 4,
            // A fragment that is alone is whole.
            FRAGMENT if half(frame, at + 2)? & 0xfff9 == 0 => 8,
            _ => return None,
        };
        next = byte(frame, at)?;
        at += len;
    }
    None
}

#[cfg(test)]
mod tests;
