//! The rx ring's producer of pages, and consumer of packets.

use std::time::Duration;

use cantle_abi::GrantRef;
use cantle_abi::io::netif::{
    NETRXF_extra_info, NETRXF_gso_prefix, NETRXF_more_data, NetifExtraInfo, NetifRxRequest,
    NetifRxResponse, XEN_NETIF_EXTRA_FLAG_MORE, XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_HASH,
};
use cantle_netport::Part;

use super::page::wait;
use super::{FrontQueue, Incoming};

/// What the next response is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// A packet's first.
    First,
    /// Extra info.
    Extra,
    /// More of its data.
    Data,
}

/// A packet whose last response has not come yet.
#[derive(Debug)]
pub(super) struct Partial {
    packet: Incoming,
    expect: Expect,
}

impl FrontQueue {
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

    /// Waits until the back end signals the rx ring, or there are responses already.
    #[must_use]
    pub fn wait_rx(&mut self, patience: Duration) -> bool {
        let channel = self.rx_channel.as_ref().unwrap_or(&self.tx_channel);
        self.rx.final_check_for_responses() || wait(&**channel, patience)
    }

    /// Takes the packets that have come whole. Their pages are free, and not posted again.
    ///
    /// # Panics
    ///
    /// Where the back end breaks the ring: answers in another order than posted, data past the page, extra info that is none.
    pub fn receive(&mut self) -> Vec<Incoming> {
        let mut packets = Vec::new();
        while let Some(response) = self.rx.next_response().expect("a sound ring") {
            let id = self.rx_posted.pop_front().expect("a response to a request");
            let mut partial = self.rx_partial.take().unwrap_or(Partial {
                packet: Incoming::default(),
                expect: Expect::First,
            });
            let whole = self.take(&mut partial, &response, id);
            // Only now: its page is what the data was taken from.
            self.rx_free.push(id);
            if whole {
                packets.push(partial.packet);
            } else {
                self.rx_partial = Some(partial);
            }
        }
        packets
    }

    /// Takes one response; true where it is the packet's last.
    fn take(&self, partial: &mut Partial, response: &NetifRxResponse, id: u16) -> bool {
        let Partial { packet, expect } = partial;
        if *expect == Expect::Extra {
            let extra = NetifExtraInfo::from_rx_slot(response);
            take_extra(packet, &extra);
            if extra.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0 {
                return false;
            }
            *expect = Expect::Data;
            return packet.flags & NETRXF_more_data == 0;
        }
        assert_eq!(response.id, id, "answers come in the order of the requests");
        if *expect == Expect::First && response.flags & NETRXF_gso_prefix != 0 {
            assert!(packet.prefix.is_none(), "one slot says it");
            assert_ne!(response.flags & NETRXF_more_data, 0, "a packet follows");
            packet.prefix = Some(response.offset);
            return false;
        }
        if *expect == Expect::First {
            packet.flags = response.flags;
            packet.offset = response.offset;
        }
        self.take_data(packet, response);
        if *expect == Expect::First && response.flags & NETRXF_extra_info != 0 {
            *expect = Expect::Extra;
            return false;
        }
        *expect = Expect::Data;
        response.flags & NETRXF_more_data == 0
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
        let mut more = false;
        while let Some(response) = self.rx.next_response().expect("a sound ring") {
            let id = self.rx_posted.pop_front().expect("a response to a request");
            self.rx_free.push(id);
            taken += 1;
            if extra_next {
                let extra = NetifExtraInfo::from_rx_slot(&response);
                extra_next = extra.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0;
                continue;
            }
            if response.flags & NETRXF_gso_prefix != 0 {
                continue;
            }
            extra_next = !more && response.flags & NETRXF_extra_info != 0;
            more = response.flags & NETRXF_more_data != 0;
            bytes += u64::try_from(response.status).unwrap_or(0);
            packets += u64::from(!more);
        }
        self.post(taken);
        (packets, bytes)
    }
}

fn take_extra(packet: &mut Incoming, extra: &NetifExtraInfo) {
    match extra.kind {
        XEN_NETIF_EXTRA_TYPE_GSO => {
            assert!(packet.gso.is_none(), "one of each kind");
            packet.gso = Some((extra.gso_type(), extra.gso_size()));
        }
        XEN_NETIF_EXTRA_TYPE_HASH => {
            assert!(packet.hash.is_none(), "one of each kind");
            packet.hash = Some((extra.hash_type(), extra.hash_value()));
        }
        kind => panic!("extra info of kind {kind}"),
    }
}
