//! One queue of a front end.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_SECTOR_SIZE, BlkifRequest, BlkifRequestIndirect, BlkifRequestSegment, BlkifResponse,
    keys as key,
};
use cantle_abi::ring::{Paged, RingBroken, RingFull};
use cantle_abi::{PAGE_SIZE, Port};
use cantle_evtchn::Channel;
use cantle_grant::test_utils::HeapGuest;
use cantle_xenstore::xenbus::Keys;
use zerocopy::FromZeros;

use super::super::Transfer;
use super::error::{FrontError, PATIENCE, sleep_on};
use super::options::FrontOptions;
use super::pages::{LentPage, Slot};
use super::ring::Ring;

/// One queue of a [`BlkFront`](super::BlkFront): a ring, its event channel, and granted pages for each of its slots. It may go to a thread of
/// its own.
///
/// A request's `id` is the number of its slot. A slot's page is granted when it is first used, and stays so.
pub struct FrontQueue {
    channel: Box<dyn Channel>,
    ring: Ring,
    ring_pages: Vec<LentPage>,
    guest: Arc<HeapGuest>,
    slots: Vec<Slot>,
    pub(crate) free: VecDeque<usize>,
    /// The most segments of a request.
    segments: usize,
    pub(super) sectors: u64,
    notified: u64,
}

impl FrontQueue {
    pub(super) fn new(
        guest: &Arc<HeapGuest>,
        channel: Box<dyn Channel>,
        options: &FrontOptions,
        segments: usize,
    ) -> Result<Self, FrontError> {
        let ring_pages: Vec<_> = (0..1_usize << options.ring_page_order)
            .map(|_| LentPage::new(guest))
            .collect();
        let memory = Paged::new(ring_pages.iter().map(|page| page.memory.clone()))
            .map_err(|_| RingBroken { prod: 0, cons: 0 })?;
        let ring = Ring::init(options.protocol, memory)?;
        let slots = ring.slots() as usize;
        Ok(Self {
            channel,
            ring,
            ring_pages,
            guest: Arc::clone(guest),
            slots: (0..slots).map(|_| Slot::new(guest, segments)).collect(),
            free: (0..slots).collect(),
            segments,
            sectors: 0,
            notified: 0,
        })
    }

    /// What is said of this queue in xenstore.
    pub(super) fn keys(&self, directory: &str) -> Keys {
        let mut keys = vec![(
            format!("{directory}{}", key::EVENT_CHANNEL),
            self.port().to_string(),
        )];
        if let [page] = self.ring_pages.as_slice() {
            keys.push((
                format!("{directory}{}", key::RING_REF),
                page.gref.to_string(),
            ));
        } else {
            for (number, page) in self.ring_pages.iter().enumerate() {
                let name = format!("{directory}{}{number}", key::RING_REF);
                keys.push((name, page.gref.to_string()));
            }
        }
        keys
    }

    /// Its event channel's port.
    #[must_use]
    pub fn port(&self) -> Port {
        self.channel.port()
    }

    /// The disk's size in sectors of 512 bytes, as it was last looked at.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// How many requests the ring holds.
    #[must_use]
    pub fn ring_slots(&self) -> usize {
        self.slots.len()
    }

    /// The most bytes of one request.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        self.segments.max(BLKIF_MAX_SEGMENTS_PER_REQUEST) * PAGE_SIZE
    }

    /// How often the back end has wanted to be notified, and was.
    #[must_use]
    pub fn notified(&self) -> u64 {
        self.notified
    }

    /// The first page of the ring's own memory, for attacks.
    #[must_use]
    pub fn ring_page(&self) -> &LentPage {
        self.ring_pages
            .first()
            .expect("a ring has at least one page")
    }

    /// All pages of the ring's own memory.
    #[must_use]
    pub fn ring_pages(&self) -> &[LentPage] {
        &self.ring_pages
    }

    /// A page of a slot and its grant; `page` is 0 to 10, or up to as many segments as this front end uses.
    #[must_use]
    pub fn page(&self, slot: usize, page: usize) -> Option<&LentPage> {
        self.slots.get(slot)?.page(page)
    }

    /// The page in which a slot's segments stand where its request is indirect.
    #[must_use]
    pub fn segment_page(&self, slot: usize) -> Option<&LentPage> {
        Some(self.slots.get(slot)?.segments())
    }

    /// Writes segments into [`segment_page`](Self::segment_page), from its beginning on, as many as it has room for.
    pub fn write_segments(
        &self,
        slot: usize,
        segments: impl IntoIterator<Item = BlkifRequestSegment>,
    ) {
        let Some(slot) = self.slots.get(slot) else {
            return;
        };
        for (number, segment) in segments.into_iter().enumerate() {
            slot.write_segment(number, &segment);
        }
    }

    /// A well-formed request for a slot: as many of its pages as the bytes need. By an indirect request where they are more than 11, and
    /// this front end uses those.
    #[must_use]
    pub fn request(&self, slot: usize, transfer: &Transfer) -> BlkifRequest {
        let is_transfer = matches!(transfer.operation, BLKIF_OP_READ | BLKIF_OP_WRITE);
        if is_transfer
            && self.segments > BLKIF_MAX_SEGMENTS_PER_REQUEST
            && transfer.bytes > BLKIF_MAX_SEGMENTS_PER_REQUEST * PAGE_SIZE
        {
            return self.indirect(slot, transfer).into();
        }
        let mut request = BlkifRequest::new_zeroed();
        request.operation = transfer.operation;
        request.id = slot as u64;
        request.sector_number = transfer.sector;
        if let Some(slot) = self.slots.get(slot) {
            let segments = slot.cover(transfer.bytes / BLKIF_SECTOR_SIZE);
            for (place, segment) in request.seg.iter_mut().zip(segments) {
                *place = segment;
                request.nr_segments += 1;
            }
        }
        request
    }

    /// As [`request`](Self::request), and indirect however small it is. The segments are in the slot's [page](Self::segment_page) at once.
    #[must_use]
    pub fn indirect(&self, slot: usize, transfer: &Transfer) -> BlkifRequestIndirect {
        let mut request = BlkifRequestIndirect::new_zeroed();
        request.operation = BLKIF_OP_INDIRECT;
        request.indirect_op = transfer.operation;
        request.id = slot as u64;
        request.sector_number = transfer.sector;
        if let Some(slot) = self.slots.get(slot) {
            for segment in slot.cover(transfer.bytes / BLKIF_SECTOR_SIZE) {
                slot.write_segment(request.nr_segments.into(), &segment);
                request.nr_segments += 1;
            }
            let [page, ..] = &mut request.indirect_grefs;
            *page = slot.segments().gref;
        }
        request
    }

    /// Puts any request in the ring, whatever is in it. Unseen until [`kick`](Self::kick).
    ///
    /// # Errors
    ///
    /// [`RingFull`].
    pub fn push(&mut self, request: &BlkifRequest) -> Result<(), RingFull> {
        self.ring.push_request(request)
    }

    /// Shows the requests pushed so far, and notifies where the back end wants it.
    ///
    /// # Errors
    ///
    /// [`FrontError::Channel`].
    pub fn kick(&mut self) -> Result<(), FrontError> {
        if self.ring.publish_requests() {
            self.notified += 1;
            self.channel.notify()?;
        }
        Ok(())
    }

    /// Notifies for nothing.
    ///
    /// # Errors
    ///
    /// [`FrontError::Channel`].
    pub fn notify(&self) -> Result<(), FrontError> {
        Ok(self.channel.notify()?)
    }

    /// The next response, if there is one.
    ///
    /// # Errors
    ///
    /// [`FrontError::Ring`].
    pub fn response(&mut self) -> Result<Option<BlkifResponse>, FrontError> {
        Ok(self.ring.next_response()?)
    }

    /// The next response, waited for.
    ///
    /// # Errors
    ///
    /// [`FrontError::Silence`] where none comes.
    pub fn wait_response(&mut self) -> Result<BlkifResponse, FrontError> {
        self.wait_response_for(PATIENCE)
    }

    /// The next response, waited for so long.
    ///
    /// # Errors
    ///
    /// [`FrontError::Silence`] where none comes.
    pub fn wait_response_for(&mut self, patience: Duration) -> Result<BlkifResponse, FrontError> {
        let end = Instant::now() + patience;
        loop {
            if let Some(response) = self.ring.next_response()? {
                return Ok(response);
            }
            if !self.ring.final_check_for_responses() {
                sleep_on(self.channel.eventfd(), end)?;
                self.channel.take();
            }
        }
    }

    /// Pushes one request and waits for its answer; nothing else is in flight.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn ask(&mut self, request: &BlkifRequest) -> Result<BlkifResponse, FrontError> {
        self.push(request).map_err(|RingFull| FrontError::Silence)?;
        self.kick()?;
        self.wait_response()
    }
}

impl Drop for FrontQueue {
    /// Takes the grants back. Pages that the back end still uses stay granted.
    fn drop(&mut self) {
        for page in &self.ring_pages {
            page.take_back(&self.guest);
        }
    }
}

impl fmt::Debug for FrontQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontQueue")
            .field("ring", &self.ring)
            .field("sectors", &self.sectors)
            .finish_non_exhaustive()
    }
}
