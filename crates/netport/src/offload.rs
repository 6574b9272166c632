//! What goes with a packet beside its bytes: its checksum's state and its segmentation.

/// How a packet's transport checksum stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in the packet, and nobody vouches for it.
    #[default]
    Present,
    /// It is in the packet, or cannot have been damaged, and the sender vouches for it.
    Validated,
    /// The field holds the pseudo-header's sum; the rest is to be added by whoever needs it.
    Blank {
        /// Where the sum starts: the transport header, in bytes from the frame's first.
        start: u16,
        /// Where the field is, in bytes from `start`.
        offset: u16,
    },
}

/// Which protocol a large packet is to be cut up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

/// How a packet that is larger than the wire's is to be cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// By which protocol.
    pub kind: GsoKind,
    /// Payload bytes of each segment; never 0.
    pub size: u16,
    /// Bytes of all headers, which each segment repeats. 0 where the port did not say.
    pub header_len: u16,
    /// TCP's CWR flag is set: only the first segment may carry it.
    pub ecn: bool,
}

/// A packet's offload metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Its checksum.
    pub checksum: Checksum,
    /// Its segmentation, where it is to be cut up.
    pub gso: Option<Gso>,
}

/// What a receiver can do with packets: the offloads that a port may leave to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Takes blank checksums of TCP and UDP.
    pub checksum: bool,
    /// Takes large TCP packets over IPv4.
    pub tso_v4: bool,
    /// Takes large TCP packets over IPv6.
    pub tso_v6: bool,
}

impl Offloads {
    /// Every packet is whole and summed.
    pub const NONE: Self = Self {
        checksum: false,
        tso_v4: false,
        tso_v6: false,
    };

    /// Whether a receiver that can do this takes a packet with that metadata as it is.
    #[must_use]
    pub fn takes(&self, offload: &Offload) -> bool {
        let blank = matches!(offload.checksum, Checksum::Blank { .. });
        let large = match offload.gso.map(|gso| gso.kind) {
            None => true,
            Some(GsoKind::TcpV4) => self.tso_v4,
            Some(GsoKind::TcpV6) => self.tso_v6,
        };
        large && (self.checksum || !blank)
    }
}
