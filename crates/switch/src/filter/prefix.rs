//! Ranges of IP addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The addresses that have the same first bits; all bits for a single one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpPrefix {
    address: IpAddr,
    len: u8,
}

/// It is no IP address with or without a slash and a number of bits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address nor one with a prefix length, such as 192.0.2.0/24")]
pub struct BadPrefix(pub String);

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl IpPrefix {
    /// Those that have the first `len` bits of `address`; `None` for more bits than it has.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        (len <= bits(address)).then_some(Self { address, len })
    }

    /// Whether it is one of them. An IPv4 address written in IPv6 is an IPv6 one.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // What differs, from the top of 128 bits.
        let differs = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
            _ => return false,
        };
        differs.leading_zeros() >= u32::from(self.len)
    }
}

impl From<IpAddr> for IpPrefix {
    fn from(address: IpAddr) -> Self {
        Self {
            address,
            len: bits(address),
        }
    }
}

impl FromStr for IpPrefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once('/') {
            None => text.parse::<IpAddr>().ok().map(Self::from),
            Some((address, len)) => {
                let digits = !len.is_empty() && len.bytes().all(|digit| digit.is_ascii_digit());
                let len = if digits { len.parse().ok() } else { None };
                address
                    .parse()
                    .ok()
                    .zip(len)
                    .and_then(|(address, len)| Self::new(address, len))
            }
        };
        parsed.ok_or_else(|| BadPrefix(text.to_owned()))
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len == bits(self.address) {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_its_addresses() {
        let inside = |prefix: &str, address: &str| {
            prefix
                .parse::<IpPrefix>()
                .unwrap()
                .contains(address.parse().unwrap())
        };
        assert!(inside("192.0.2.7", "192.0.2.7") && !inside("192.0.2.7", "192.0.2.6"));
        assert!(inside("192.0.2.0/25", "192.0.2.127") && !inside("192.0.2.0/25", "192.0.2.128"));
        assert!(inside("0.0.0.0/0", "255.1.2.3") && !inside("0.0.0.0/0", "::1"));
        assert!(inside("::/0", "fe80::1") && !inside("::/0", "1.2.3.4"));
        assert!(
            inside("2001:db8::/63", "2001:db8:0:1::1")
                && !inside("2001:db8::/63", "2001:db8:0:2::1")
        );
    }

    #[test]
    fn text_is_read_back_and_nonsense_refused() {
        for text in ["192.0.2.7", "192.0.2.0/24", "::/0", "2001:db8::1"] {
            assert_eq!(text.parse::<IpPrefix>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "192.0.2.0/33",
            "::/129",
            "::/",
            "::/+1",
            "1.2.3",
            "1.2.3.4/24/1",
        ] {
            assert!(text.parse::<IpPrefix>().is_err(), "{text}");
        }
    }
}
