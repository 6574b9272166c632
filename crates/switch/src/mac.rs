//! Ethernet addresses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// An Ethernet address, in the order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// It is not six pairs of hexadecimal digits with colons between.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address: six pairs of hexadecimal digits with colons between")]
pub struct BadMacAddr(pub String);

impl MacAddr {
    /// The address of everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it is everybody's.
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Whether it is a group's; everybody is one.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it can be one station's: no group's, and not all zeroes.
    #[must_use]
    pub fn is_station(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }

    /// Whether it is one of the sixteen that no bridge forwards (IEEE 802.1Q, table 8-1): spanning tree, LACP, LLDP, pause.
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
    }

    /// The link-local IPv6 address that a station makes of it (RFC 4291, appendix A).
    #[must_use]
    pub fn eui64_link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let halves = [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
        let [g, h, i, j] = halves;
        Ipv6Addr::new(0xfe80, 0, 0, 0, g, h, i, j)
    }

    /// As a number below 2^48.
    pub(crate) const fn number(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address of a number's lower 48 bits.
    pub(crate) const fn of_number(number: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = BadMacAddr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadMacAddr(text.to_owned());
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or_else(bad)?;
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        match pairs.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_back() {
        let mac: MacAddr = "00:16:3E:0a:0b:0c".parse().unwrap();
        assert_eq!(mac, MacAddr([0x00, 0x16, 0x3e, 0x0a, 0x0b, 0x0c]));
        assert_eq!(mac.to_string(), "00:16:3e:0a:0b:0c");
        assert_eq!(MacAddr::of_number(mac.number()), mac);
        for bad in [
            "",
            "00:16:3e:0a:0b",
            "00:16:3e:0a:0b:0c:0d",
            "0:16:3e:0a:0b:0c",
            "+1:16:3e:0a:0b:0c",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_link_local_address_is_the_one_of_the_rfc() {
        let mac: MacAddr = "00:16:3e:0a:0b:0c".parse().unwrap();
        assert_eq!(
            mac.eui64_link_local(),
            "fe80::216:3eff:fe0a:b0c".parse::<Ipv6Addr>().unwrap()
        );
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(MacAddr::BROADCAST.is_multicast() && MacAddr::BROADCAST.is_broadcast());
        assert!(!MacAddr([0; 6]).is_station() && MacAddr([2, 0, 0, 0, 0, 0]).is_station());
        assert!(MacAddr([1, 0x80, 0xc2, 0, 0, 0xf]).is_link_local());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]).is_link_local());
    }
}
