//! What a front end says of itself, and what goes through it.

/// Pages for each direction of a queue: as many as a ring has slots.
pub(super) const BUFFERS: u16 = 256;

/// What a front end says that it can do, and how it connects.
#[derive(Clone, Debug)]
pub struct FrontOptions {
    /// `feature-sg`.
    pub sg: bool,
    /// `feature-gso-tcpv4`.
    pub gso_v4: bool,
    /// `feature-gso-tcpv6`.
    pub gso_v6: bool,
    /// `feature-gso-tcpv4-prefix`, as old front ends have it.
    pub gso_v4_prefix: bool,
    /// `feature-gso-tcpv6-prefix`.
    pub gso_v6_prefix: bool,
    /// Without it `feature-no-csum-offload` is set.
    pub csum_v4: bool,
    /// `feature-ipv6-csum-offload`.
    pub csum_v6: bool,
    /// An event channel for each ring.
    pub split_channels: bool,
    /// Queues; with more than one, their keys are in `queue-N/`.
    pub queues: u32,
    /// A control ring.
    pub control: bool,
    /// `request-multicast-control`.
    pub multicast: bool,
    /// `xdp-headroom`.
    pub headroom: u16,
    /// Pages that each ring has, 256 at most.
    pub buffers: u16,
    /// Pages posted for reception at once on each queue, and posted again when used.
    pub rx_buffers: u16,
    /// Keys written last, over the others; an empty value removes one.
    pub keys: Vec<(String, String)>,
}

impl Default for FrontOptions {
    fn default() -> Self {
        Self {
            sg: true,
            gso_v4: true,
            gso_v6: true,
            gso_v4_prefix: false,
            gso_v6_prefix: false,
            csum_v4: true,
            csum_v6: true,
            split_channels: true,
            queues: 1,
            control: false,
            multicast: false,
            headroom: 0,
            buffers: BUFFERS,
            rx_buffers: BUFFERS,
            keys: Vec::new(),
        }
    }
}

/// A packet to send.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outgoing<'a> {
    /// The frame.
    pub bytes: &'a [u8],
    /// `NETTXF_csum_blank`.
    pub csum_blank: bool,
    /// `NETTXF_data_validated`.
    pub data_validated: bool,
    /// `XEN_NETIF_GSO_TYPE_*` and segment size.
    pub gso: Option<(u8, u16)>,
    /// How many bytes go in each slot; what they leave goes in slots of a page.
    pub split: &'a [usize],
    /// Where in its page each slot's data starts, as far as the page reaches.
    pub offset: usize,
}

/// A packet received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The frame.
    pub bytes: Vec<u8>,
    /// The first response's `NETRXF_*`, of those with data.
    pub flags: u16,
    /// Where in its page the frame begins.
    pub offset: u16,
    /// Segmentation: `XEN_NETIF_GSO_TYPE_*` and segment size.
    pub gso: Option<(u8, u16)>,
    /// The segment size that a slot before the packet said (`NETRXF_gso_prefix`).
    pub prefix: Option<u16>,
    /// The hash that extra info said: its kind (`_XEN_NETIF_CTRL_HASH_TYPE_*`) and value.
    pub hash: Option<(u8, u32)>,
    /// A response had an error status.
    pub error: bool,
}
