//! What is measured by iperf3.

use std::fmt;

/// By which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
}

/// From the guest's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

/// The Internet protocol's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V4,
    V6,
}

/// A run of iperf3; it is shown as the guest is told of it, and calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) kind: Kind,
    pub(super) way: Way,
    version: Version,
    mtu: u32,
}

impl Run {
    /// TCP over IPv4, from the guest and to it, in packets of the usual size.
    pub(super) const FEW: [Self; 2] = [Self::tcp(Way::Up), Self::tcp(Way::Down)];

    const fn tcp(way: Way) -> Self {
        Self {
            kind: Kind::Tcp,
            way,
            version: Version::V4,
            mtu: 1500,
        }
    }

    /// All kinds of them, with these MTUs.
    pub(super) fn all(mtus: &[u32]) -> Vec<Self> {
        let mut all = Vec::new();
        for mtu in mtus {
            for version in [Version::V4, Version::V6] {
                for kind in [Kind::Tcp, Kind::Udp] {
                    all.extend([Way::Up, Way::Down].map(|way| Self {
                        kind,
                        way,
                        version,
                        mtu: *mtu,
                    }));
                }
            }
        }
        all
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
        };
        let way = match self.way {
            Way::Up => "up",
            Way::Down => "down",
        };
        let version = match self.version {
            Version::V4 => "v4",
            Version::V6 => "v6",
        };
        write!(f, "{kind}_{way}_{version}_{}", self.mtu)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn runs_have_names_of_their_own() {
        let all = Run::all(&[1500, 9000]);
        let names: BTreeSet<String> = all.iter().map(Run::to_string).collect();
        assert_eq!((all.len(), names.len()), (16, 16));
        assert!(names.contains("udp_down_v6_9000"));
        assert_eq!(Run::FEW[0].to_string(), "tcp_up_v4_1500");
    }
}
