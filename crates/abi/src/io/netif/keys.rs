//! The names under which the two ends of a network device agree on things in xenstore, as far as the header has them.
//!
//! Numbers are in decimal.

// The back end's, of what it can do.

/// 0 or 1, of either side: one event channel for each ring.
pub const FEATURE_SPLIT_EVENT_CHANNELS: &str = "feature-split-event-channels";
/// The most pairs of rings of a device.
pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
/// 0 or 1: multicast packets can be filtered in the back end ([`REQUEST_MULTICAST_CONTROL`]).
pub const FEATURE_MULTICAST_CONTROL: &str = "feature-multicast-control";
/// 0 or 1: [`REQUEST_MULTICAST_CONTROL`] may change at any time, and not only before the front end connects.
pub const FEATURE_DYNAMIC_MULTICAST_CONTROL: &str = "feature-dynamic-multicast-control";
/// 0 or 1: there can be a control ring.
pub const FEATURE_CTRL_RING: &str = "feature-ctrl-ring";
/// 0 or 1: the link is down, or up; up by default.
pub const CARRIER: &str = "carrier";

// Of either side, of what it takes.

/// 0 or 1: packets whose IPv4 TCP or UDP checksum is blank are not to be sent; 0 by default.
pub const FEATURE_NO_CSUM_OFFLOAD: &str = "feature-no-csum-offload";
/// 0 or 1: packets whose IPv6 TCP or UDP checksum is blank may be sent; 0 by default.
pub const FEATURE_IPV6_CSUM_OFFLOAD: &str = "feature-ipv6-csum-offload";
/// 0 or 1: large TCP packets over IPv4 may be sent; 0 by default.
pub const FEATURE_GSO_TCPV4: &str = "feature-gso-tcpv4";
/// 0 or 1: large TCP packets over IPv6 may be sent; 0 by default.
pub const FEATURE_GSO_TCPV6: &str = "feature-gso-tcpv6";

// The front end's.

/// 0 or 1: it notifies of pages posted to receive in.
pub const FEATURE_RX_NOTIFY: &str = "feature-rx-notify";
/// How many pairs of rings; 1 by default. Of two or more, each has its keys in a folder `queue-0`, `queue-1`, …
pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";
/// The gref of the tx ring.
pub const TX_RING_REF: &str = "tx-ring-ref";
/// The gref of the rx ring.
pub const RX_RING_REF: &str = "rx-ring-ref";
/// The port of the event channel of both rings.
pub const EVENT_CHANNEL: &str = "event-channel";
/// The port of the tx ring's event channel ([`FEATURE_SPLIT_EVENT_CHANNELS`]).
pub const EVENT_CHANNEL_TX: &str = "event-channel-tx";
/// The port of the rx ring's event channel ([`FEATURE_SPLIT_EVENT_CHANNELS`]).
pub const EVENT_CHANNEL_RX: &str = "event-channel-rx";
/// The gref of the control ring.
pub const CTRL_RING_REF: &str = "ctrl-ring-ref";
/// The port of the control ring's event channel.
pub const EVENT_CHANNEL_CTRL: &str = "event-channel-ctrl";
/// 0 or 1: multicast packets are dropped but for the groups that the front end has joined.
pub const REQUEST_MULTICAST_CONTROL: &str = "request-multicast-control";

// The toolstack's, to the front end.

/// The largest packet without its Ethernet header, in bytes; 1500 by default. The front end need not obey it.
pub const MTU: &str = "mtu";
/// 0 or 1: whether the front end may trust the back end; 1 by default.
pub const TRUSTED: &str = "trusted";
