//! The guest's side: a front end over real rings, which also does what no honest one would.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::io::netif::{
    NETIF_RSP_NULL, NETRXF_extra_info, NETRXF_more_data, NETTXF_csum_blank, NETTXF_data_validated,
    NETTXF_extra_info, NETTXF_more_data, NetifExtraInfo, NetifRxRequest, NetifRxResponse,
    NetifTxRequest, NetifTxResponse,
};
use cantle_abi::ring::FrontRing;
use cantle_abi::{DomId, Gfn, GrantRef, PAGE_SIZE};
use cantle_evtchn::{Channel, EventChannels};
use cantle_grant::test_utils::{GuestPages, HeapGuest};
use cantle_xenstore::prelude::*;
use cantle_xenstore::xenbus::{DeviceId, XenbusState};
use cantle_xenstore::{LocalClient, TxId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use cantle_netport::{Part, PartMut};

/// Pages for each direction: as many as a ring has slots.
const BUFFERS: u16 = 256;

/// What a front end says that it can do, and how it connects.
#[derive(Clone, Debug)]
pub struct FrontOptions {
    /// `feature-sg`.
    pub sg: bool,
    /// `feature-gso-tcpv4`.
    pub gso_v4: bool,
    /// `feature-gso-tcpv6`.
    pub gso_v6: bool,
    /// Without it `feature-no-csum-offload` is set.
    pub csum_v4: bool,
    /// `feature-ipv6-csum-offload`.
    pub csum_v6: bool,
    /// An event channel for each ring.
    pub split_channels: bool,
    /// Pages posted for reception at once, and posted again when used.
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
            csum_v4: true,
            csum_v6: true,
            split_channels: true,
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
    /// The first response's `NETRXF_*`.
    pub flags: u16,
    /// Segmentation: `XEN_NETIF_GSO_TYPE_*` and segment size.
    pub gso: Option<(u8, u16)>,
    /// A response had an error status.
    pub error: bool,
}

struct Buffer {
    frame: Gfn,
    page: GuestPages,
    gref: GrantRef,
}

/// A network front end, as a guest's kernel has one.
pub struct NetFront {
    pub(super) tx: FrontRing<NetifTxRequest, NetifTxResponse, GuestPages>,
    rx: FrontRing<NetifRxRequest, NetifRxResponse, GuestPages>,
    tx_channel: Box<dyn Channel>,
    rx_channel: Option<Box<dyn Channel>>,
    tx_buffers: Vec<Buffer>,
    tx_free: Vec<u16>,
    tx_busy: Vec<bool>,
    rx_buffers: Vec<Buffer>,
    rx_free: Vec<u16>,
    /// Posted and not answered, in the ring's order.
    rx_posted: VecDeque<u16>,
    /// A packet whose last response has not come yet.
    rx_partial: Option<(Incoming, bool)>,
    client: LocalClient,
    id: DeviceId,
    guest: Arc<HeapGuest>,
    /// The pages of the two rings: tx, rx.
    rings: [Buffer; 2],
}

impl fmt::Debug for NetFront {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetFront")
            .field("tx", &self.tx)
            .field("rx", &self.rx)
            .finish_non_exhaustive()
    }
}

fn lend(guest: &HeapGuest, to: DomId, readonly: bool) -> Buffer {
    let frame = guest.alloc_frame();
    Buffer {
        frame,
        page: guest.page(frame),
        gref: guest.grant(to, frame, readonly),
    }
}

fn one(flag: bool) -> &'static str {
    if flag { "1" } else { "0" }
}

impl NetFront {
    pub(super) fn publish(
        guest: Arc<HeapGuest>,
        channels: &dyn EventChannels,
        client: LocalClient,
        id: &DeviceId,
        options: &FrontOptions,
    ) -> Self {
        let to = id.backend;
        let (tx_ring, rx_ring) = (lend(&guest, to, false), lend(&guest, to, false));
        let tx_channel = channels.alloc_unbound(to).expect("a port");
        let rx_channel = options
            .split_channels
            .then(|| channels.alloc_unbound(to).expect("a port"));
        let mut keys = vec![
            ("tx-ring-ref", tx_ring.gref.to_string()),
            ("rx-ring-ref", rx_ring.gref.to_string()),
            ("request-rx-copy", "1".to_owned()),
            ("feature-rx-notify", "1".to_owned()),
            ("feature-sg", one(options.sg).to_owned()),
            ("feature-gso-tcpv4", one(options.gso_v4).to_owned()),
            ("feature-gso-tcpv6", one(options.gso_v6).to_owned()),
            ("feature-no-csum-offload", one(!options.csum_v4).to_owned()),
            ("feature-ipv6-csum-offload", one(options.csum_v6).to_owned()),
        ];
        if let Some(rx) = &rx_channel {
            keys.push(("event-channel-tx", tx_channel.port().to_string()));
            keys.push(("event-channel-rx", rx.port().to_string()));
        } else {
            keys.push(("event-channel", tx_channel.port().to_string()));
        }
        let mut front = Self {
            tx: FrontRing::init(tx_ring.page.clone()).expect("a page is a ring"),
            rx: FrontRing::init(rx_ring.page.clone()).expect("a page is a ring"),
            tx_channel,
            rx_channel,
            tx_buffers: (0..BUFFERS).map(|_| lend(&guest, to, true)).collect(),
            tx_free: (0..BUFFERS).rev().collect(),
            tx_busy: vec![false; usize::from(BUFFERS)],
            rx_buffers: (0..BUFFERS).map(|_| lend(&guest, to, false)).collect(),
            rx_free: (0..BUFFERS).rev().collect(),
            rx_posted: VecDeque::new(),
            rx_partial: None,
            client,
            id: id.clone(),
            rings: [tx_ring, rx_ring],
            guest,
        };
        front.post(options.rx_buffers);
        for (key, value) in keys {
            front.write_key(key, &value);
        }
        for (key, value) in &options.keys {
            front.write_key(key, value);
        }
        front.set_state(XenbusState::CONNECTED);
        front
    }

    fn write_key(&self, key: &str, value: &str) {
        let path = format!("{}/{key}", self.id.frontend_path());
        if value.is_empty() {
            self.client.rm(TxId::NONE, &path).expect("a key");
        } else {
            let written = self.client.write(TxId::NONE, &path, value.as_bytes());
            written.expect("the front end's own directory");
        }
    }

    /// Writes the front end's state.
    ///
    /// # Panics
    ///
    /// Where the store refuses.
    pub fn set_state(&self, state: XenbusState) {
        self.write_key("state", &state.0.to_string());
    }

    /// The back end's state, as published.
    #[must_use]
    pub fn backend_state(&self) -> XenbusState {
        let path = format!("{}/state", self.id.backend_path());
        let text = self.client.read(TxId::NONE, &path);
        text.map_or(XenbusState::UNKNOWN, |text| XenbusState::parse(&text))
    }

    /// A key of the back end's directory.
    #[must_use]
    pub fn backend_key(&self, key: &str) -> Option<String> {
        let path = format!("{}/{key}", self.id.backend_path());
        self.client.read_string(TxId::NONE, &path).ok()
    }

    /// Waits for a back end that runs elsewhere to reach a state; false where it has not after `patience`.
    #[must_use]
    pub fn wait_state(&self, state: XenbusState, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.backend_state() != state {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
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
    /// Where there is none: there are 256.
    #[must_use]
    pub fn tx_buffer(&self, id: u16) -> (&GuestPages, GrantRef) {
        let buffer = &self.tx_buffers[usize::from(id)];
        (&buffer.page, buffer.gref)
    }

    /// A page to receive into, by its request's id, with its grant.
    ///
    /// # Panics
    ///
    /// Where there is none: there are 256.
    #[must_use]
    pub fn rx_buffer(&self, id: u16) -> (&GuestPages, GrantRef) {
        let buffer = &self.rx_buffers[usize::from(id)];
        (&buffer.page, buffer.gref)
    }

    /// Puts a packet in the tx ring; false (and nothing done) where there is no room. [`kick`](Self::kick) shows it.
    ///
    /// # Panics
    ///
    /// For a packet that is longer than a request can say.
    pub fn send(&mut self, packet: &Outgoing<'_>) -> bool {
        let sizes = self.sizes(packet);
        let extra = packet
            .gso
            .map(|(kind, size)| NetifExtraInfo::gso(size, kind, 0));
        let needed = sizes.len() + usize::from(extra.is_some());
        let room = self.tx.free() as usize;
        if room < needed || self.tx_free.len() < sizes.len() {
            return false;
        }
        let mut flags = 0;
        for (set, flag) in [
            (packet.csum_blank, NETTXF_csum_blank),
            (packet.data_validated, NETTXF_data_validated),
            (extra.is_some(), NETTXF_extra_info),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let mut rest = packet.bytes;
        let mut size = u16::try_from(packet.bytes.len()).expect("at most 65535 bytes");
        let last = sizes.len() - 1;
        for (n, &len) in sizes.iter().enumerate() {
            let (bytes, after) = rest.split_at(len);
            rest = after;
            let id = self.tx_free.pop().expect("counted above");
            self.tx_busy[usize::from(id)] = true;
            let offset = packet.offset.min(PAGE_SIZE - len);
            let buffer = &self.tx_buffers[usize::from(id)];
            let into = PartMut::shared(&buffer.page, offset, len);
            into.expect("within the page").copy_from(bytes);
            if n > 0 {
                size = u16::try_from(len).expect("within a page");
            }
            let more = if n < last { NETTXF_more_data } else { 0 };
            let request = NetifTxRequest {
                gref: buffer.gref,
                offset: u16::try_from(offset).expect("within a page"),
                flags: flags | more,
                id,
                size,
            };
            self.tx.push_request(&request).expect("counted above");
            if let (0, Some(extra)) = (n, &extra) {
                let slot = extra.to_tx_slot();
                self.tx.push_request(&slot).expect("counted above");
            }
            flags = 0;
        }
        true
    }

    /// The slots' sizes of a packet: at least one.
    fn sizes(&self, packet: &Outgoing<'_>) -> Vec<usize> {
        let mut left = packet.bytes.len();
        let mut sizes = Vec::new();
        for &size in packet.split {
            let size = size.min(left).min(PAGE_SIZE);
            sizes.push(size);
            left -= size;
        }
        while left > 0 || sizes.is_empty() {
            sizes.push(left.min(PAGE_SIZE));
            left -= left.min(PAGE_SIZE);
        }
        sizes
    }

    /// Puts any slot in the tx ring; false where it is full.
    pub fn push_slot(&mut self, slot: &NetifTxRequest) -> bool {
        self.tx.push_request(slot).is_ok()
    }

    /// Shows what has been put in the tx ring, and tells the back end if it asked to be told.
    pub fn kick(&mut self) {
        if self.tx.publish_requests() {
            self.notify_tx();
        }
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

    /// Takes the tx responses that have come.
    ///
    /// # Panics
    ///
    /// Where the back end breaks the ring.
    pub fn responses(&mut self) -> Vec<NetifTxResponse> {
        let mut responses = Vec::new();
        while let Some(response) = self.tx.next_response().expect("a sound ring") {
            let busy = self.tx_busy.get_mut(usize::from(response.id));
            if response.status != NETIF_RSP_NULL
                && let Some(busy) = busy
                && std::mem::take(busy)
            {
                self.tx_free.push(response.id);
            }
            responses.push(response);
        }
        responses
    }

    /// Requests in the tx ring that have not been answered, extra-info slots included.
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.tx.slots() - self.tx.free()
    }

    /// Waits until the back end signals the tx ring, or there are responses already.
    #[must_use]
    pub fn wait_tx(&mut self, patience: Duration) -> bool {
        self.tx.final_check_for_responses() || wait(&*self.tx_channel, patience)
    }

    /// Waits until the back end signals the rx ring, or there are responses already.
    #[must_use]
    pub fn wait_rx(&mut self, patience: Duration) -> bool {
        let channel = self.rx_channel.as_ref().unwrap_or(&self.tx_channel);
        self.rx.final_check_for_responses() || wait(&**channel, patience)
    }

    /// Posts up to `count` pages to receive into, and shows them.
    pub fn post(&mut self, count: u16) {
        for _ in 0..count {
            let Some(id) = self.rx_free.pop() else {
                break;
            };
            let gref = self.rx_buffers[usize::from(id)].gref;
            if self
                .rx
                .push_request(&NetifRxRequest { id, pad: 0, gref })
                .is_err()
            {
                self.rx_free.push(id);
                break;
            }
            self.rx_posted.push_back(id);
        }
        if self.rx.publish_requests() {
            self.notify_rx();
        }
    }

    /// Posts a page by any grant reference; false where the ring is full.
    pub fn post_gref(&mut self, id: u16, gref: GrantRef) -> bool {
        let pushed = self
            .rx
            .push_request(&NetifRxRequest { id, pad: 0, gref })
            .is_ok();
        if pushed {
            self.rx_posted.push_back(id);
        }
        if self.rx.publish_requests() {
            self.notify_rx();
        }
        pushed
    }

    /// Pages posted and not used yet.
    #[must_use]
    pub fn posted(&self) -> usize {
        self.rx_posted.len()
    }

    /// Takes the packets that have come whole. Their pages are free, and not posted again.
    ///
    /// # Panics
    ///
    /// Where the back end breaks the ring: answers in another order than posted, or with data past the page.
    pub fn receive(&mut self) -> Vec<Incoming> {
        let mut packets = Vec::new();
        while let Some(response) = self.rx.next_response().expect("a sound ring") {
            let id = self.rx_posted.pop_front().expect("a response to a request");
            self.rx_free.push(id);
            let (mut packet, extra_next) = match self.rx_partial.take() {
                Some(partial) => partial,
                None => {
                    let packet = Incoming {
                        flags: response.flags,
                        ..Incoming::default()
                    };
                    (packet, false)
                }
            };
            let more = if extra_next {
                let extra = NetifExtraInfo::from_rx_slot(&response);
                assert_eq!(extra.flags, 0, "one extra info");
                packet.gso = Some((extra.gso_type(), extra.gso_size()));
                packet.flags & NETRXF_more_data != 0
            } else {
                assert_eq!(response.id, id, "answers come in the order of the requests");
                self.take_data(&mut packet, &response);
                response.flags & NETRXF_more_data != 0
            };
            let first = packet.gso.is_none() && packet.flags & NETRXF_extra_info != 0;
            let extra_comes = !extra_next && first;
            if more || extra_comes {
                self.rx_partial = Some((packet, extra_comes));
            } else {
                packets.push(packet);
            }
        }
        packets
    }

    fn take_data(&self, packet: &mut Incoming, response: &NetifRxResponse) {
        let Ok(len) = usize::try_from(response.status) else {
            packet.error = true;
            return;
        };
        let buffer = &self.rx_buffers[usize::from(response.id)];
        let part = Part::shared(&buffer.page, usize::from(response.offset), len);
        let at = packet.bytes.len();
        packet.bytes.resize(at + len, 0);
        part.expect("within the page")
            .copy_to(&mut packet.bytes[at..]);
    }

    /// Takes responses without looking at the data, and posts their pages again; returns packets and bytes.
    ///
    /// # Panics
    ///
    /// Where the back end breaks the ring.
    pub fn drain(&mut self) -> (u64, u64) {
        let (mut packets, mut bytes) = (0, 0);
        let mut taken = 0;
        let mut extra_next = false;
        while let Some(response) = self.rx.next_response().expect("a sound ring") {
            let id = self.rx_posted.pop_front().expect("a response to a request");
            self.rx_free.push(id);
            taken += 1;
            if std::mem::take(&mut extra_next) {
                continue;
            }
            extra_next = response.flags & NETRXF_extra_info != 0;
            bytes += u64::try_from(response.status).unwrap_or(0);
            packets += u64::from(response.flags & NETRXF_more_data == 0);
        }
        self.post(taken);
        (packets, bytes)
    }
}

impl Drop for NetFront {
    /// Takes back what was lent, but for what the back end still uses.
    fn drop(&mut self) {
        let buffers = self.tx_buffers.iter().chain(&self.rx_buffers);
        for buffer in buffers.chain(&self.rings) {
            if self.guest.ungrant(buffer.gref) {
                self.guest.free_frame(buffer.frame);
            }
        }
    }
}

fn wait(channel: &dyn Channel, patience: Duration) -> bool {
    let fd = channel.eventfd();
    let timeout = Timespec::try_from(patience).expect("a sound duration");
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout));
    let signalled = ready.is_ok_and(|ready| ready > 0);
    channel.take();
    signalled
}
