//! The same packet over and over, for benchmarks: the front end's own work is kept small.

use std::time::Duration;

use cantle_abi::io::netif::{
    NETIF_RSP_NULL, NETIF_RSP_OKAY, NETTXF_csum_blank, NETTXF_extra_info, NETTXF_more_data,
    NetifExtraInfo, NetifTxRequest,
};

use super::{FrontQueue, Outgoing};
use cantle_netport::PartMut;

/// A packet laid out in a queue's pages, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Load {
    /// Ring slots of each copy of the packet.
    copies: Vec<Vec<NetifTxRequest>>,
}

impl Load {
    /// Fills a queue's pages with as many copies of a packet as the ring has room for. Its `split` and `offset` are not used.
    ///
    /// # Panics
    ///
    /// For a packet that is longer than a request can say.
    #[must_use]
    pub fn new(front: &FrontQueue, packet: &Outgoing<'_>) -> Self {
        let pages = packet.bytes.chunks(cantle_abi::PAGE_SIZE).len();
        let slots = pages + usize::from(packet.gso.is_some());
        let total = u16::try_from(packet.bytes.len()).expect("at most 65535 bytes");
        let mut copies = Vec::new();
        let mut id = 0_u16;
        for _ in 0..256 / slots {
            let mut requests = Vec::with_capacity(slots);
            for (n, chunk) in packet.bytes.chunks(cantle_abi::PAGE_SIZE).enumerate() {
                let (page, gref) = front.tx_buffer(id);
                let into = PartMut::shared(page, 0, chunk.len());
                into.expect("within the page").copy_from(chunk);
                let mut flags = 0;
                if n + 1 < pages {
                    flags |= NETTXF_more_data;
                }
                if n == 0 && packet.csum_blank {
                    flags |= NETTXF_csum_blank;
                }
                if n == 0 && packet.gso.is_some() {
                    flags |= NETTXF_extra_info;
                }
                let size = if n == 0 {
                    total
                } else {
                    u16::try_from(chunk.len()).expect("within a page")
                };
                requests.push(NetifTxRequest {
                    gref,
                    offset: 0,
                    flags,
                    id,
                    size,
                });
                if let (0, Some((kind, size))) = (n, packet.gso) {
                    requests.push(NetifExtraInfo::gso(size, kind, 0).to_tx_slot());
                }
                id += 1;
            }
            copies.push(requests);
        }
        Self { copies }
    }

    /// Sends the packet `count` times and waits for the answers; returns how many were answered with an error.
    ///
    /// # Panics
    ///
    /// Where the back end does not answer for ten seconds, or breaks the ring.
    pub fn send(&self, front: &mut FrontQueue, count: u64) -> u64 {
        let mut stream = self.stream();
        while stream.answered() < count {
            if !stream.step(front, count) {
                assert!(front.wait_tx(Duration::from_secs(10)), "an answer");
            }
        }
        stream.errors()
    }

    /// Begins to send the packet over and over, for a caller who has other things to do beside it.
    #[must_use]
    pub fn stream(&self) -> Stream<'_> {
        Stream {
            load: self,
            next: 0,
            sent: 0,
            answered_slots: 0,
            errors: 0,
        }
    }

    /// Ring slots of a packet.
    fn slots(&self) -> u64 {
        self.copies.first().map_or(1, Vec::len) as u64
    }
}

/// A packet being sent over and over.
#[derive(Debug)]
pub struct Stream<'a> {
    load: &'a Load,
    /// The copy that is sent next.
    next: usize,
    sent: u64,
    answered_slots: u64,
    errors: u64,
}

impl Stream<'_> {
    /// Takes the answers that have come, and sends for as long as there is room in the ring and fewer than `until` have been sent in all.
    /// It does not wait; false where there was nothing to do.
    ///
    /// # Panics
    ///
    /// Where the back end breaks the ring.
    pub fn step(&mut self, front: &mut FrontQueue, until: u64) -> bool {
        let mut moved = false;
        while let Some(response) = front.tx.next_response().expect("a sound ring") {
            moved = true;
            self.answered_slots += 1;
            let good = matches!(response.status, NETIF_RSP_OKAY | NETIF_RSP_NULL);
            self.errors += u64::from(!good);
        }
        let slots = self.load.slots();
        while self.sent < until && u64::from(front.tx.free()) >= slots {
            let copy = self.load.copies.get(self.next);
            for slot in copy.into_iter().flatten() {
                front.tx.push_request(slot).expect("counted above");
            }
            self.next = (self.next + 1) % self.load.copies.len().max(1);
            self.sent += 1;
            moved = true;
        }
        front.kick();
        moved
    }

    /// How many have been put in the ring.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How many have been answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered_slots / self.load.slots()
    }

    /// How many answers said that a packet was refused or dropped.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors
    }
}
