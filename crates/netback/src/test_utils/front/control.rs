//! The control ring's producer: what a front end asks for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cantle_abi::io::netif::{
    XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ, XEN_NETIF_CTRL_STATUS_SUCCESS,
    XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING, XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING,
    XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM, XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS,
    XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING,
    XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE, XEN_NETIF_CTRLF_GREF_readonly, XenNetifCtrlRequest,
    XenNetifCtrlResponse, XenNetifGref,
};
use cantle_abi::ring::FrontRing;
use cantle_abi::{DomId, GrantRef};
use cantle_evtchn::{Channel, EventChannels};
use cantle_grant::test_utils::{GuestPages, HeapGuest};
use cantle_netport::{Part, PartMut};

use super::FrontQueue;
use super::page::{Buffer, wait};

/// The control ring of a front end. Requests are put in one after another; the answers come in order.
pub struct FrontControl {
    ring: FrontRing<XenNetifCtrlRequest, XenNetifCtrlResponse, GuestPages>,
    channel: Box<dyn Channel>,
    ring_page: Buffer,
    /// What requests give a page for: a key, a mapping, a list of grants.
    given: Buffer,
    next_id: u16,
    guest: Arc<HeapGuest>,
}

impl fmt::Debug for FrontControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontControl")
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}

impl FrontControl {
    pub(super) fn new(guest: Arc<HeapGuest>, channels: &dyn EventChannels, to: DomId) -> Self {
        let ring_page = Buffer::lend(&guest, to, false);
        Self {
            ring: FrontRing::init(ring_page.page.clone()).expect("a page is a ring"),
            channel: channels.alloc_unbound(to).expect("a port"),
            given: Buffer::lend(&guest, to, false),
            ring_page,
            next_id: 1,
            guest,
        }
    }

    pub(super) fn keys(&self) -> [(&'static str, String); 2] {
        [
            ("ctrl-ring-ref", self.ring_page.gref.to_string()),
            ("event-channel-ctrl", self.channel.port().to_string()),
        ]
    }

    /// The ring's page, to write anything into.
    #[must_use]
    pub fn ring_page(&self) -> &GuestPages {
        &self.ring_page.page
    }

    /// The page that requests may name, with its grant.
    #[must_use]
    pub fn given(&self) -> (&GuestPages, GrantRef) {
        (&self.given.page, self.given.gref)
    }

    /// Tells the back end of the ring, asked or not.
    pub fn notify(&self) {
        let _ = self.channel.notify();
    }

    /// Puts any request in the ring; false where it is full. [`kick`](Self::kick) shows it.
    pub fn push(&mut self, request: &XenNetifCtrlRequest) -> bool {
        self.ring.push_request(request).is_ok()
    }

    /// Puts a request in the ring and shows it; false where the ring is full.
    pub fn ask(&mut self, kind: u16, data: [u32; 3]) -> bool {
        let id = self.next_id;
        let asked = self.push(&XenNetifCtrlRequest { id, kind, data });
        self.next_id = id.wrapping_add(1);
        self.kick();
        asked
    }

    /// Shows what has been put in the ring, and tells the back end if it asked to be told.
    pub fn kick(&mut self) {
        if self.ring.publish_requests() {
            self.notify();
        }
    }

    /// Takes the answers that have come.
    ///
    /// # Panics
    ///
    /// Where the back end breaks the ring.
    pub fn answers(&mut self) -> Vec<XenNetifCtrlResponse> {
        std::iter::from_fn(|| self.ring.next_response().expect("a sound ring")).collect()
    }

    /// Waits until the back end signals the ring, or there are answers already.
    #[must_use]
    pub fn wait(&mut self, patience: Duration) -> bool {
        self.ring.final_check_for_responses() || wait(&*self.channel, patience)
    }

    /// Asks, lets the back end `serve`, and takes the answer's status and data.
    ///
    /// # Panics
    ///
    /// Where there is not one answer, or it is to something else.
    pub fn request(&mut self, serve: impl FnOnce(), kind: u16, data: [u32; 3]) -> (u16, u32) {
        let id = self.next_id;
        assert!(self.ask(kind, data), "there is room");
        serve();
        let answers = self.answers();
        let [answer] = answers.as_slice() else {
            panic!("{} answers to one request", answers.len());
        };
        assert_eq!((answer.id, answer.kind), (id, kind));
        let status = u16::try_from(answer.status).expect("a status");
        (status, answer.data)
    }

    fn must(&mut self, serve: &mut dyn FnMut(), kind: u16, data: [u32; 3]) -> u32 {
        let (status, answer) = self.request(serve, kind, data);
        assert_eq!(status, XEN_NETIF_CTRL_STATUS_SUCCESS, "{kind} {data:?}");
        answer
    }

    fn give(&self, bytes: &[u8]) -> u32 {
        let into = PartMut::shared(&self.given.page, 0, bytes.len());
        into.expect("within the page").copy_from(bytes);
        self.given.gref.0
    }

    /// Has packets hashed by Toeplitz with this key and these types, and spread by this mapping (none where it is empty).
    ///
    /// # Panics
    ///
    /// Where the back end refuses it.
    pub fn hash(&mut self, mut serve: impl FnMut(), key: &[u8], types: u32, mapping: &[u32]) {
        let serve: &mut dyn FnMut() = &mut serve;
        let algorithm = u32::from(XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ);
        self.must(
            serve,
            XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM,
            [algorithm, 0, 0],
        );
        let gref = self.give(key);
        let len = u32::try_from(key.len()).expect("a short key");
        self.must(serve, XEN_NETIF_CTRL_TYPE_SET_HASH_KEY, [gref, len, 0]);
        let size = u32::try_from(mapping.len()).expect("a short mapping");
        self.must(
            serve,
            XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE,
            [size, 0, 0],
        );
        let entries: Vec<u8> = mapping
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        let gref = self.give(&entries);
        self.must(serve, XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING, [gref, size, 0]);
        self.must(serve, XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS, [types, 0, 0]);
    }

    /// Has all pages of a queue mapped once and for all.
    ///
    /// # Panics
    ///
    /// Where the back end refuses it.
    pub fn lend(&mut self, mut serve: impl FnMut(), number: u32, queue: &FrontQueue) {
        let (gref, count) = self.list(queue);
        let kind = XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING;
        self.must(&mut serve, kind, [number, gref, count]);
    }

    /// Has them unmapped; returns how many were, and the statuses of those that were not.
    ///
    /// # Panics
    ///
    /// Where the back end refuses it.
    pub fn unlend(&mut self, mut serve: impl FnMut(), number: u32, queue: &FrontQueue) -> u32 {
        let (gref, count) = self.list(queue);
        let kind = XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING;
        let removed = self.must(&mut serve, kind, [number, gref, count]);
        let mut list = vec![0; 8 * usize::try_from(count).expect("few")];
        let part = Part::shared(&self.given.page, 0, list.len());
        part.expect("within the page").copy_to(&mut list);
        let (entries, _) = list.as_chunks();
        let entries = entries.iter().copied().map(XenNetifGref::from_bytes);
        let done = entries.filter(|entry| entry.status == XEN_NETIF_CTRL_STATUS_SUCCESS);
        assert_eq!(u32::try_from(done.count()).expect("few"), removed);
        removed
    }

    /// Writes the list of a queue's pages; its grant and how many there are.
    fn list(&self, queue: &FrontQueue) -> (u32, u32) {
        let entry = |gref, flags| XenNetifGref {
            gref,
            flags,
            status: 0,
        };
        let readonly = XEN_NETIF_CTRLF_GREF_readonly;
        let tx = queue
            .tx_buffers
            .iter()
            .map(|page| entry(page.gref, readonly));
        let rx = queue.rx_buffers.iter().map(|page| entry(page.gref, 0));
        let bytes: Vec<u8> = tx.chain(rx).flat_map(|entry| entry.to_bytes()).collect();
        let count = u32::try_from(bytes.len() / 8).expect("few");
        (self.give(&bytes), count)
    }
}

impl Drop for FrontControl {
    fn drop(&mut self) {
        self.ring_page.take_back(&self.guest);
        self.given.take_back(&self.guest);
    }
}
