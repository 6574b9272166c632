//! IPv6: the source address, and neighbour discovery behind whatever extension headers.

use std::net::Ipv6Addr;

use super::{Looked, half};
use crate::MacAddr;

const HEADER_LEN: usize = 40;
const EXTENSIONS_MAX: u32 = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const MLD_V2_REPORT: u8 = 143;

const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// What is behind the extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upper {
    Icmp { at: usize, fragment: bool },
    Other,
}

/// Finds it. `None` where the headers do not end within the packet's bytes, which for a first fragment RFC 7112 forbids.
fn upper(packet: &[u8]) -> Option<Upper> {
    let mut next = *packet.get(6)?;
    let mut at = HEADER_LEN;
    let mut fragment = false;
    for _ in 0..=EXTENSIONS_MAX {
        let len = match next {
            ICMPV6 => return Some(Upper::Icmp { at, fragment }),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => {
                (usize::from(*packet.get(at + 1)?) + 1) * 8
            }
            AUTHENTICATION => (usize::from(*packet.get(at + 1)?) + 2) * 4,
            FRAGMENT => {
                fragment = true;
                // What a later fragment is of, its first one says, which is looked at by itself.
                if half(packet, at + 2)? & 0xfff8 != 0 {
                    return Some(Upper::Other);
                }
                8
            }
            _ => return Some(Upper::Other),
        };
        next = *packet.get(at)?;
        at += len;
    }
    None
}

impl Looked<'_> {
    pub(super) fn ipv6(&self) -> Option<bool> {
        let header = self.packet.first_chunk::<HEADER_LEN>()?;
        let end = HEADER_LEN + usize::from(half(header, 4)?);
        if header.first()? >> 4 != 6 || end > self.len {
            return Some(false);
        }
        let hops = *header.get(7)?;
        let source = Ipv6Addr::from(*header.get(8..)?.first_chunk::<16>()?);
        // What is after the packet's end is no part of it; what is after the first part's, nobody may rely on.
        let packet = self.packet.get(..end).unwrap_or(self.packet);
        let whole = packet.len() == end;
        let from_own = self.own(source);
        let Upper::Icmp { at, fragment } = upper(packet)? else {
            return Some(from_own);
        };
        let icmp = packet.get(at..)?;
        let kind = *icmp.first()?;
        let options_at = match kind {
            ROUTER_SOLICITATION => 8,
            ROUTER_ADVERTISEMENT => 16,
            NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => 24,
            REDIRECT => 40,
            MLD_REPORT | MLD_DONE | MLD_V2_REPORT => {
                return Some(from_own || (source.is_unspecified() && hops == 1 && !fragment));
            }
            _ => return Some(from_own),
        };
        if fragment || !whole || hops != 255 {
            return Some(false);
        }
        let says_link_address = self.link_addresses(icmp.get(options_at..)?)?;
        let locked = self.filter.addresses.is_some();
        let from_nobody = source.is_unspecified() && !says_link_address;
        Some(match kind {
            ROUTER_ADVERTISEMENT | REDIRECT => !locked,
            ROUTER_SOLICITATION => from_own || from_nobody,
            NEIGHBOUR_SOLICITATION => {
                let target = Ipv6Addr::from(*icmp.get(8..)?.first_chunk::<16>()?);
                // Duplicate address detection (RFC 4862, 5.4.2), also where `::` is within what is allowed: nobody may defend
                // another's address from being taken.
                if source.is_unspecified() {
                    from_nobody && self.own(target)
                } else {
                    from_own
                }
            }
            _ => from_own && self.own(Ipv6Addr::from(*icmp.get(8..)?.first_chunk::<16>()?)),
        })
    }

    fn own(&self, address: Ipv6Addr) -> bool {
        self.filter.has_address(address.into()) || address == self.source.eui64_link_local()
    }

    /// Whether the options of neighbour discovery say a link-layer address. `None` where they say one that is not the port's,
    /// or do not add up.
    fn link_addresses(&self, mut options: &[u8]) -> Option<bool> {
        let mut found = false;
        while let [kind, words, ..] = *options {
            // Each is at least one word, so this ends.
            let len = usize::from(words) * 8;
            let option = options.get(..len).filter(|option| !option.is_empty())?;
            if matches!(kind, SOURCE_LINK_ADDRESS | TARGET_LINK_ADDRESS) {
                let mac = MacAddr(*option.get(2..)?.first_chunk()?);
                if words != 1 || !self.filter.has_mac(mac) {
                    return None;
                }
                found = true;
            }
            options = options.get(len..)?;
        }
        options.is_empty().then_some(found)
    }
}
