//! A frame's Ethernet header and outermost VLAN tag.

use crate::{MacAddr, VlanId};

pub(crate) const ETHERNET_LEN: usize = 14;
pub(crate) const TAG_LEN: usize = 4;
/// As much as [`Link::parse`] looks at.
pub(crate) const LINK_LEN: usize = ETHERNET_LEN + TAG_LEN;

pub(crate) const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
const ETH_P_QINQ1: u16 = 0x9100;

/// Whether what follows the type is a VLAN tag, of whatever kind.
pub(crate) const fn is_tag(kind: u16) -> bool {
    matches!(kind, ETH_P_8021Q | ETH_P_8021AD | ETH_P_QINQ1)
}

/// An 802.1Q tag's control information: priority, drop eligibility, VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tci(pub(crate) u16);

impl Tci {
    /// The VLAN's number, 0 where there is only a priority.
    pub(crate) const fn number(self) -> u16 {
        self.0 & 0x0fff
    }

    pub(crate) const fn with_vlan(self, vlan: VlanId) -> Self {
        Self(self.0 & 0xf000 | vlan.number())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) destination: MacAddr,
    pub(crate) source: MacAddr,
    /// Its outermost tag, where that is an 802.1Q one.
    pub(crate) tag: Option<Tci>,
    /// The type after that tag.
    pub(crate) kind: u16,
}

impl Link {
    /// Reads a frame's first bytes, of which there may be more than are looked at. `None` where they end too early.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (ethernet, rest) = bytes.split_first_chunk::<ETHERNET_LEN>()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, kind @ ..] = *ethernet;
        let mut kind = u16::from_be_bytes(kind);
        let mut tag = None;
        if kind == ETH_P_8021Q {
            let [m, n, inner @ ..] = *rest.first_chunk::<TAG_LEN>()?;
            tag = Some(Tci(u16::from_be_bytes([m, n])));
            kind = u16::from_be_bytes(inner);
        }
        Some(Self {
            destination: MacAddr([a, b, c, d, e, f]),
            source: MacAddr([g, h, i, j, k, l]),
            tag,
            kind,
        })
    }
}
