//! What is to be done with a frame so that the front end can take it.

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::netif::{
    NETRXF_csum_blank, NETRXF_data_validated, NetifExtraInfo, XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6, XEN_NETIF_NR_SLOTS_MIN,
};
use cantle_netport::headers::IpVersion;
use cantle_netport::{Checksum, Gso, GsoKind, Offload, Offloads};

use crate::control::Hash;
use crate::headers;

/// Bytes of the smallest frame: an Ethernet header.
const FRAME_MIN: usize = 14;

/// A frame beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameInfo {
    /// Its length in bytes.
    pub(crate) len: usize,
    /// Its offloads.
    pub(crate) offload: Offload,
    /// Its hash, where the front end wants one.
    pub(crate) hash: Option<Hash>,
}

/// What the front end has said that it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrontEnd {
    /// Frames over several pages.
    pub(crate) sg: bool,
    /// Large TCP packets over IPv4, said by an extra-info slot.
    pub(crate) gso_v4: bool,
    /// Large TCP packets over IPv6, said by an extra-info slot.
    pub(crate) gso_v6: bool,
    /// Large TCP packets over IPv4, said by a slot before the packet (old front ends).
    pub(crate) gso_v4_prefix: bool,
    /// Large TCP packets over IPv6, said by a slot before the packet.
    pub(crate) gso_v6_prefix: bool,
    /// Blank checksums over IPv4.
    pub(crate) csum_v4: bool,
    /// Blank checksums over IPv6.
    pub(crate) csum_v6: bool,
}

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The front end takes it as it is.
    Pass,
    /// Its checksum is to be completed first.
    Complete {
        /// Where the sum starts.
        start: u16,
        /// Where the field is, from there.
        offset: u16,
    },
    /// It is to be cut up first.
    Segment,
    /// It cannot be given.
    Drop,
}

impl FrontEnd {
    /// What the port may leave to this front end. Large packets come with blank checksums and over several pages.
    pub(crate) fn offloads(&self) -> Offloads {
        Offloads {
            checksum: self.csum_v4 || self.csum_v6,
            tso_v4: self.takes(GsoKind::TcpV4),
            tso_v6: self.takes(GsoKind::TcpV6),
        }
    }

    fn takes(&self, kind: GsoKind) -> bool {
        self.sg
            && match kind {
                GsoKind::TcpV4 => (self.gso_v4 || self.gso_v4_prefix) && self.csum_v4,
                GsoKind::TcpV6 => (self.gso_v6 || self.gso_v6_prefix) && self.csum_v6,
            }
    }

    /// Whether segmentation is said by a slot before the packet. A front end that knows both ways gets the newer one.
    fn by_prefix(&self, kind: GsoKind) -> bool {
        match kind {
            GsoKind::TcpV4 => !self.gso_v4,
            GsoKind::TcpV6 => !self.gso_v6,
        }
    }

    /// What is to be done with a frame of `len` bytes, of which `headers` are the first, `HEADERS_MAX` at most.
    pub(crate) fn plan(&self, headers: &[u8], layout: Layout, info: &FrameInfo) -> Plan {
        let fits = info.len <= layout.frame_max(self.sg);
        if info.len < FRAME_MIN {
            return Plan::Drop;
        }
        match (info.offload.gso, info.offload.checksum) {
            // The sums of a large packet's segments are made by whoever cuts it up, so it has to be blank.
            (Some(_), Checksum::Present | Checksum::Validated) => Plan::Drop,
            (Some(gso), Checksum::Blank { .. }) if !fits || !self.takes(gso.kind) => Plan::Segment,
            (None, _) if !fits => Plan::Drop,
            (None, Checksum::Present | Checksum::Validated) => Plan::Pass,
            (gso, Checksum::Blank { start, offset }) => {
                if self.finds(headers, start, offset) {
                    Plan::Pass
                } else if gso.is_some() {
                    Plan::Segment
                } else {
                    Plan::Complete { start, offset }
                }
            }
        }
    }

    /// Whether the front end completes this checksum rightly. It gets one bit for it and finds the place by itself: what it would not find
    /// (in a tunnel, behind a VLAN tag, of another protocol) it must not be left to do.
    fn finds(&self, headers: &[u8], start: u16, offset: u16) -> bool {
        headers::transport(headers).is_ok_and(|found| {
            let takes = match found.version {
                IpVersion::V4 => self.csum_v4,
                IpVersion::V6 => self.csum_v6,
            };
            takes && found.ip == 14 && found.start == start && found.checksum_offset() == offset
        })
    }
}

/// How frames lie in the guest's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes left free at each page's start (`xdp-headroom`).
    pub(crate) headroom: u16,
}

impl Layout {
    /// Bytes of a page that data goes in.
    pub(crate) fn room(self) -> usize {
        PAGE_SIZE.saturating_sub(usize::from(self.headroom)).max(1)
    }

    fn frame_max(self, sg: bool) -> usize {
        if sg {
            XEN_NETIF_NR_SLOTS_MIN * self.room()
        } else {
            self.room()
        }
    }

    /// How many slots a frame takes: its pages, and one for each thing that is said beside it.
    pub(crate) fn slots(self, info: &FrameInfo) -> usize {
        info.len.div_ceil(self.room())
            + usize::from(info.offload.gso.is_some())
            + usize::from(info.hash.is_some())
    }
}

/// What is said of a frame beside its data.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// By a slot before it: its segment size.
    pub(super) prefix: Option<u16>,
    /// By slots after its first: none, one or two.
    pub(super) extras: [Option<NetifExtraInfo>; 2],
    /// The first slot's flags, `NETRXF_more_data` and `NETRXF_extra_info` apart.
    pub(super) flags: u16,
}

impl Said {
    pub(super) fn of(info: &FrameInfo, front: &FrontEnd) -> Self {
        let mut said = Self {
            flags: flags(info.offload.checksum),
            ..Self::default()
        };
        let [first, second] = &mut said.extras;
        match info.offload.gso {
            Some(gso) if front.by_prefix(gso.kind) => said.prefix = Some(gso.size),
            Some(gso) => *first = Some(extra(&gso)),
            None => {}
        }
        if let Some(hash) = info.hash {
            let free = if first.is_some() { second } else { first };
            *free = Some(hash.extra(0));
        }
        if let [Some(first), Some(_)] = &mut said.extras {
            first.flags |= cantle_abi::io::netif::XEN_NETIF_EXTRA_FLAG_MORE;
        }
        said
    }
}

/// The first response's flags for a checksum's state.
fn flags(checksum: Checksum) -> u16 {
    match checksum {
        Checksum::Present => 0,
        Checksum::Validated => NETRXF_data_validated,
        Checksum::Blank { .. } => NETRXF_csum_blank | NETRXF_data_validated,
    }
}

/// The extra-info slot for a segmentation.
fn extra(gso: &Gso) -> NetifExtraInfo {
    let kind = match gso.kind {
        GsoKind::TcpV4 => XEN_NETIF_GSO_TYPE_TCPV4,
        GsoKind::TcpV6 => XEN_NETIF_GSO_TYPE_TCPV6,
    };
    NetifExtraInfo::gso(gso.size, kind, 0)
}
