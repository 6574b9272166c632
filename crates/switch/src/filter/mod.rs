//! What a port may send: whose addresses it may say are its own.

mod ipv6;
mod prefix;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};

pub use prefix::{BadPrefix, IpPrefix};

use crate::MacAddr;
use crate::header::{ETHERNET_LEN, TAG_LEN, is_tag};

/// Tags of a frame that are looked behind.
const TAGS_MAX: u32 = 2;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

/// Ethernet, IPv4, six and four bytes of address: the first eight bytes of an ARP packet (RFC 826), without the operation.
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

const IPPROTO_UDP: u8 = 17;
const BOOTPC: u16 = 68;
const BOOTPS: u16 = 67;

/// What a port may send. A frame is looked at behind up to two VLAN tags, and only in its first part, which its sender can
/// no longer change; one that is not what it claims to be, or goes on too far to be understood, is dropped.
///
/// With both lists, this is the locked mode of a virtual interface: `macs` has its address, `addresses` what it was assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoofFilter {
    /// Ethernet addresses that may be a frame's source, an ARP packet's sender, and a link-layer address in IPv6 neighbour
    /// discovery; `None` for any.
    pub macs: Option<Vec<MacAddr>>,
    /// IP addresses that may be a packet's source, an ARP packet's sender, and what a neighbour advertisement is for; `None` for any.
    ///
    /// What may be sent beside: DHCP requests from 0.0.0.0, ARP probes for an own address, and for IPv6 what comes from the link-local address of the
    /// frame's Ethernet source (EUI-64; stable private ones are to be listed) or, as duplicate address detection has it, from `::`. What may not:
    /// frames that are neither ARP nor IP, router advertisements, redirects, neighbour discovery in fragments (RFC 6980).
    pub addresses: Option<Vec<IpPrefix>>,
}

/// One frame's addresses, as far as they are looked at.
struct Looked<'f> {
    filter: &'f SpoofFilter,
    source: MacAddr,
    /// The packet, up to where its first part ends.
    packet: &'f [u8],
    /// How long it is in all.
    len: usize,
}

impl SpoofFilter {
    /// Whether the port may send a frame of `len` bytes of which the first are given: all of them, or as many of its first part's as
    /// [`HEADERS_MAX`](cantle_netport::headers::HEADERS_MAX).
    #[must_use]
    pub fn admits(&self, bytes: &[u8], len: usize) -> bool {
        self.check(bytes, len).unwrap_or(false)
    }

    /// `None` where it ends before it says what it is.
    fn check(&self, bytes: &[u8], len: usize) -> Option<bool> {
        let source = MacAddr(*bytes.get(6..)?.first_chunk()?);
        if !self.has_mac(source) {
            return Some(false);
        }
        let mut at = ETHERNET_LEN;
        let mut kind = half(bytes, at - 2)?;
        for _ in 0..TAGS_MAX {
            if is_tag(kind) {
                at += TAG_LEN;
                kind = half(bytes, at - 2)?;
            }
        }
        let looked = Looked {
            filter: self,
            source,
            packet: bytes.get(at..)?,
            len: len.checked_sub(at)?,
        };
        match kind {
            ETH_P_ARP => looked.arp(),
            ETH_P_IP => looked.ipv4(),
            ETH_P_IPV6 => looked.ipv6(),
            _ => Some(self.addresses.is_none() && !is_tag(kind)),
        }
    }

    fn has_mac(&self, mac: MacAddr) -> bool {
        self.macs.as_ref().is_none_or(|macs| macs.contains(&mac))
    }

    fn has_address(&self, address: IpAddr) -> bool {
        let addresses = self.addresses.as_ref();
        addresses.is_none_or(|all| all.iter().any(|prefix| prefix.contains(address)))
    }
}

impl Looked<'_> {
    fn arp(&self) -> Option<bool> {
        let arp = self.packet.first_chunk::<28>()?;
        let (fixed, rest) = arp.split_first_chunk::<6>()?;
        let operation = half(rest, 0)?;
        let sender_mac = MacAddr(*rest.get(2..)?.first_chunk()?);
        let sender = Ipv4Addr::from(*rest.get(8..)?.first_chunk::<4>()?);
        let target = Ipv4Addr::from(*rest.get(18..)?.first_chunk::<4>()?);
        // RFC 5227: who asks whether an address is free has none yet.
        let probe = operation == ARP_REQUEST && sender.is_unspecified();
        let own = if probe { target } else { sender };
        Some(
            *fixed == ARP_ETHERNET_IPV4
                && matches!(operation, ARP_REQUEST | ARP_REPLY)
                && self.filter.has_mac(sender_mac)
                && self.filter.has_address(own.into()),
        )
    }

    fn ipv4(&self) -> Option<bool> {
        let first = *self.packet.first()?;
        let header = usize::from(first & 0xf) * 4;
        let total = usize::from(half(self.packet, 2)?);
        if first >> 4 != 4 || header < 20 || total < header || total > self.len {
            return Some(false);
        }
        let bytes = self.packet.get(..header)?;
        let source = Ipv4Addr::from(*bytes.get(12..)?.first_chunk::<4>()?);
        let destination = Ipv4Addr::from(*bytes.get(16..)?.first_chunk::<4>()?);
        if self.filter.has_address(source.into()) {
            return Some(true);
        }
        let whole = half(bytes, 6)? & 0x3fff == 0;
        let udp = whole && *bytes.get(9)? == IPPROTO_UDP && total >= header + 8;
        Some(
            source.is_unspecified()
                && destination.is_broadcast()
                && udp
                && half(self.packet, header)? == BOOTPC
                && half(self.packet, header + 2)? == BOOTPS,
        )
    }
}

/// Two bytes, in the order of the wire.
fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
