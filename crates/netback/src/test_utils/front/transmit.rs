//! The tx ring's producer.

use std::time::Duration;

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::netif::{
    NETIF_RSP_NULL, NETTXF_csum_blank, NETTXF_data_validated, NETTXF_extra_info, NETTXF_more_data,
    NetifExtraInfo, NetifTxRequest, NetifTxResponse,
};
use cantle_netport::PartMut;

use super::page::wait;
use super::{FrontQueue, Outgoing};

impl FrontQueue {
    /// Puts a packet in the tx ring; false (and nothing done) where there is no room. [`kick`](Self::kick) shows it.
    ///
    /// # Panics
    ///
    /// For a packet that is longer than a request can say.
    pub fn send(&mut self, packet: &Outgoing<'_>) -> bool {
        let extra = packet
            .gso
            .map(|(kind, size)| NetifExtraInfo::gso(size, kind, 0));
        self.send_with(packet, extra.as_slice())
    }

    /// As [`send`](Self::send), with any extra info; the packet's own segmentation is not used.
    ///
    /// # Panics
    ///
    /// As [`send`](Self::send).
    pub fn send_with(&mut self, packet: &Outgoing<'_>, extras: &[NetifExtraInfo]) -> bool {
        let sizes = sizes(packet);
        let needed = sizes.len() + extras.len();
        let room = self.tx.free() as usize;
        if room < needed || self.tx_free.len() < sizes.len() {
            return false;
        }
        let mut flags = 0;
        for (set, flag) in [
            (packet.csum_blank, NETTXF_csum_blank),
            (packet.data_validated, NETTXF_data_validated),
            (!extras.is_empty(), NETTXF_extra_info),
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
            if n == 0 {
                for extra in extras {
                    let slot = extra.to_tx_slot();
                    self.tx.push_request(&slot).expect("counted above");
                }
            }
            flags = 0;
        }
        true
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
}

/// The slots' sizes of a packet: at least one.
fn sizes(packet: &Outgoing<'_>) -> Vec<usize> {
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
