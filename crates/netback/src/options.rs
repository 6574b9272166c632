//! What an embedder may choose.

use std::time::Duration;

use crate::credit::Rate;

/// What is offered to the front end, and within which bounds it is served.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BackendOptions {
    /// Queues that the front end may have; each but the first gets a thread of its own, which this crate starts. No more are offered than the
    /// [device](cantle_netport::NetDevice) has.
    pub queues_max: u32,
    /// What the guest may send: unlimited where there is none.
    pub tx_rate: Option<Rate>,
    /// What the guest is sent: unlimited where there is none.
    pub rx_rate: Option<Rate>,
    /// The largest IP packet, in bytes, as it is told to the front end (`mtu`); it is not told where there is none.
    pub mtu: Option<u16>,
    /// Whether the link is up at first.
    pub link: bool,
    /// Offer the control ring: hashing and static grants.
    pub control_ring: bool,
    /// Offer to leave out multicast packets that the guest has not asked for.
    pub multicast_control: bool,
    /// Bytes of frames that wait for each queue while the guest has posted no pages, at least three of the largest. It is what a
    /// guest that takes nothing makes us hold.
    pub queue_bytes: usize,
    /// After so long without pages, frames that wait are dropped, and those that come (xen-netback's `rx_drain_timeout_msecs`).
    pub drain_after: Duration,
    /// After so long without pages, the port is told that nobody is there (xen-netback's `rx_stall_timeout_msecs`).
    pub stall_after: Duration,
}

impl Default for BackendOptions {
    fn default() -> Self {
        Self {
            queues_max: 8,
            tx_rate: None,
            rx_rate: None,
            mtu: None,
            link: true,
            control_ring: true,
            multicast_control: true,
            queue_bytes: 2 * 1024 * 1024,
            drain_after: Duration::from_secs(10),
            stall_after: Duration::from_secs(60),
        }
    }
}
