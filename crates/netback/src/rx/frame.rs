//! Making a port's frame fit for the front end.

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::netif::{
    NETRXF_csum_blank, NETRXF_data_validated, NetifExtraInfo, XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6, XEN_NETIF_NR_SLOTS_MIN,
};

use crate::checksum;
use crate::headers::{self, IpVersion};
use cantle_netport::{Checksum, Gso, GsoKind, Offload, Offloads};

/// What the front end has said that it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrontEnd {
    /// Frames over several pages.
    pub(crate) sg: bool,
    /// Large TCP packets over IPv4.
    pub(crate) gso_v4: bool,
    /// Large TCP packets over IPv6.
    pub(crate) gso_v6: bool,
    /// Blank checksums over IPv4.
    pub(crate) csum_v4: bool,
    /// Blank checksums over IPv6.
    pub(crate) csum_v6: bool,
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
                GsoKind::TcpV4 => self.gso_v4 && self.csum_v4,
                GsoKind::TcpV6 => self.gso_v6 && self.csum_v6,
            }
    }

    /// The most bytes that a frame may have.
    fn frame_max(&self) -> usize {
        if self.sg {
            XEN_NETIF_NR_SLOTS_MIN * PAGE_SIZE
        } else {
            PAGE_SIZE
        }
    }

    /// Makes a frame's metadata what this front end takes, completing its checksum where it must. `None`: the frame cannot be
    /// given to it.
    pub(crate) fn adapt(&self, frame: &mut [u8], offload: Offload) -> Option<Offload> {
        if frame.is_empty() || frame.len() > self.frame_max() {
            return None;
        }
        if offload.gso.is_some_and(|gso| !self.takes(gso.kind)) {
            return None;
        }
        let Checksum::Blank { start, offset } = offload.checksum else {
            // The sum of each segment is made by whoever cuts the packet up.
            return offload.gso.is_none().then_some(offload);
        };
        // The front end gets one bit for the checksum and finds the place by itself. What it would not find (in a tunnel,
        // behind a VLAN tag, of another protocol) it must not be left to do.
        let found = headers::transport(frame).ok();
        let found = found.filter(|found| {
            let takes = match found.version {
                IpVersion::V4 => self.csum_v4,
                IpVersion::V6 => self.csum_v6,
            };
            takes && found.ip == 14 && found.start == start && found.checksum_offset() == offset
        });
        if found.is_some() {
            return Some(offload);
        }
        if offload.gso.is_some() || !checksum::complete(frame, start, offset) {
            return None;
        }
        Some(Offload {
            checksum: Checksum::Present,
            gso: None,
        })
    }
}

/// The first response's flags for a checksum's state.
pub(super) fn flags(checksum: Checksum) -> u16 {
    match checksum {
        Checksum::Present => 0,
        Checksum::Validated => NETRXF_data_validated,
        Checksum::Blank { .. } => NETRXF_csum_blank | NETRXF_data_validated,
    }
}

/// The extra-info slot for a segmentation.
pub(super) fn extra(gso: &Gso) -> NetifExtraInfo {
    let kind = match gso.kind {
        GsoKind::TcpV4 => XEN_NETIF_GSO_TYPE_TCPV4,
        GsoKind::TcpV6 => XEN_NETIF_GSO_TYPE_TCPV6,
    };
    NetifExtraInfo::gso(gso.size, kind, 0)
}
