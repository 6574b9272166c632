//! One queue of a front end: two rings, their pages and their event channels.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use cantle_abi::io::netif::{NetifRxRequest, NetifRxResponse, NetifTxRequest, NetifTxResponse};
use cantle_abi::ring::FrontRing;
use cantle_abi::{DomId, GrantRef};
use cantle_evtchn::{Channel, EventChannels};
use cantle_grant::test_utils::{GuestPages, HeapGuest};

use super::FrontOptions;
use super::options::BUFFERS;
use super::page::Buffer;
use super::receive::Partial;

/// One queue of a front end, as a guest's kernel has one.
pub struct FrontQueue {
    pub(in crate::test_utils) tx: FrontRing<NetifTxRequest, NetifTxResponse, GuestPages>,
    pub(super) rx: FrontRing<NetifRxRequest, NetifRxResponse, GuestPages>,
    pub(super) tx_channel: Box<dyn Channel>,
    pub(super) rx_channel: Option<Box<dyn Channel>>,
    pub(super) tx_buffers: Vec<Buffer>,
    pub(super) tx_free: Vec<u16>,
    pub(super) tx_busy: Vec<bool>,
    pub(super) rx_buffers: Vec<Buffer>,
    pub(super) rx_free: Vec<u16>,
    /// Posted and not answered, in the ring's order.
    pub(super) rx_posted: VecDeque<u16>,
    /// A packet whose last response has not come yet.
    pub(super) rx_partial: Option<Partial>,
    guest: Arc<HeapGuest>,
    /// The pages of the two rings: tx, rx.
    rings: [Buffer; 2],
}

impl fmt::Debug for FrontQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontQueue")
            .field("tx", &self.tx)
            .field("rx", &self.rx)
            .finish_non_exhaustive()
    }
}

impl FrontQueue {
    pub(super) fn new(
        guest: Arc<HeapGuest>,
        channels: &dyn EventChannels,
        to: DomId,
        options: &FrontOptions,
    ) -> Self {
        let lend = |readonly| Buffer::lend(&guest, to, readonly);
        let (tx_ring, rx_ring) = (lend(false), lend(false));
        let count = options.buffers.min(BUFFERS);
        let tx_channel = channels.alloc_unbound(to).expect("a port");
        let rx_channel = options
            .split_channels
            .then(|| channels.alloc_unbound(to).expect("a port"));
        let mut queue = Self {
            tx: FrontRing::init(tx_ring.page.clone()).expect("a page is a ring"),
            rx: FrontRing::init(rx_ring.page.clone()).expect("a page is a ring"),
            tx_channel,
            rx_channel,
            tx_buffers: (0..count).map(|_| lend(true)).collect(),
            tx_free: (0..count).rev().collect(),
            tx_busy: vec![false; usize::from(count)],
            rx_buffers: (0..count).map(|_| lend(false)).collect(),
            rx_free: (0..count).rev().collect(),
            rx_posted: VecDeque::new(),
            rx_partial: None,
            rings: [tx_ring, rx_ring],
            guest,
        };
        queue.post(options.rx_buffers);
        queue
    }

    /// What xenstore is told of it.
    pub(super) fn keys(&self) -> Vec<(&'static str, String)> {
        let mut keys = vec![
            ("tx-ring-ref", self.rings[0].gref.to_string()),
            ("rx-ring-ref", self.rings[1].gref.to_string()),
        ];
        if let Some(rx) = &self.rx_channel {
            keys.push(("event-channel-tx", self.tx_channel.port().to_string()));
            keys.push(("event-channel-rx", rx.port().to_string()));
        } else {
            keys.push(("event-channel", self.tx_channel.port().to_string()));
        }
        keys
    }

    /// The tx ring's page, to write anything into.
    #[must_use]
    pub fn tx_ring_page(&self) -> &GuestPages {
        &self.rings[0].page
    }

    /// The rx ring's page, to write anything into.
    #[must_use]
    pub fn rx_ring_page(&self) -> &GuestPages {
        &self.rings[1].page
    }

    /// A page to send from, by its request's id, with its grant.
    ///
    /// # Panics
    ///
    /// Where there is none: there are 256, if not said otherwise.
    #[must_use]
    pub fn tx_buffer(&self, id: u16) -> (&GuestPages, GrantRef) {
        let buffer = &self.tx_buffers[usize::from(id)];
        (&buffer.page, buffer.gref)
    }

    /// A page to receive into, by its request's id, with its grant.
    ///
    /// # Panics
    ///
    /// Where there is none: there are 256, if not said otherwise.
    #[must_use]
    pub fn rx_buffer(&self, id: u16) -> (&GuestPages, GrantRef) {
        let buffer = &self.rx_buffers[usize::from(id)];
        (&buffer.page, buffer.gref)
    }

    /// Tells the back end of the tx ring, asked or not.
    pub fn notify_tx(&self) {
        // The other end may be closed: then nobody wants to know.
        let _ = self.tx_channel.notify();
    }

    /// Tells the back end of the rx ring, asked or not.
    pub fn notify_rx(&self) {
        let channel = self.rx_channel.as_ref().unwrap_or(&self.tx_channel);
        let _ = channel.notify();
    }
}

impl Drop for FrontQueue {
    /// Takes back what was lent, but for what the back end still uses.
    fn drop(&mut self) {
        let buffers = self.tx_buffers.iter().chain(&self.rx_buffers);
        for buffer in buffers.chain(&self.rings) {
            buffer.take_back(&self.guest);
        }
    }
}
