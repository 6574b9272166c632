//! Large packets read straight into the guest's pages.
//!
//! A port's next frame is not known before it is read, but large TCP packets come one after another. So after one of them, the pages of
//! the next ones are mapped and the port reads into them: the kernel's copy is the only one. A frame that comes in their place after all,
//! and lies otherwise in its pages, is copied out again.

use std::time::Instant;

use cantle_abi::PAGE_SIZE;
use cantle_abi::io::netif::{
    NETIF_RSP_ERROR, NETRXF_extra_info, NETRXF_more_data, NetifRxResponse,
};
use cantle_abi::ring::RingBroken;
use cantle_grant::{Access, Mappings};
use cantle_netport::headers::HEADERS_MAX;
use cantle_netport::port::FRAME_MAX;
use cantle_netport::{NetPort, Offload, Part, PartMut, Received};

use super::frame::{FrameInfo, Plan, Said};
use super::queue::RxQueue;

/// Pages of the largest frame, with a byte more than it has.
const PAGES: usize = FRAME_MAX / PAGE_SIZE + 1;
/// From this length on, a packet is expected to be followed by others like it.
const LARGE: usize = 8 * 1024;

/// What is known of packets to come.
#[derive(Debug, Default)]
pub(super) struct Direct {
    /// The last packet was a large one.
    expected: bool,
    /// The pages for the next one: those of the first slot posted, and of those after the second, which extra info takes.
    pages: Option<Mappings>,
}

impl Direct {
    /// A frame has come.
    pub(super) fn seen(&mut self, info: &FrameInfo) {
        self.expected = info.offload.gso.is_some() && info.len >= LARGE;
    }

    /// The slots are used otherwise.
    pub(super) fn forget(&mut self) {
        self.pages = None;
    }
}

/// What reading straight came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Straight {
    /// The guest has a packet more.
    Given,
    /// A frame was read that it does not have, or not yet.
    Read,
    /// No frame waits, or none is expected that could be read so.
    No,
}

impl RxQueue {
    /// Reads a frame straight into the guest's pages, where a large one is expected and nothing stands against it.
    pub(super) fn read_straight(
        &mut self,
        port: &mut dyn NetPort,
        now: Instant,
    ) -> Result<Straight, RingBroken> {
        let plain = self.layout().headroom == 0 && !self.hash.get().is_on();
        if !self.direct.expected
            || self.port_empty
            || !plain
            || !self.backlog.is_empty()
            || self.posted.len() <= PAGES
            || self.shared.rx_credit.ready(now).is_err()
        {
            return Ok(Straight::No);
        }
        let pages = match self.direct.pages.take() {
            Some(pages) => pages,
            None => self.map_next(),
        };
        let mut parts = [const { None::<PartMut<'_>> }; PAGES];
        for (part, page) in parts.iter_mut().zip(pages.iter()) {
            *part = page
                .ok()
                .and_then(|page| PartMut::shared(page, 0, PAGE_SIZE));
        }
        let mut into: Vec<PartMut<'_>> = parts.into_iter().flatten().collect();
        if into.len() < PAGES {
            // A page cannot be had: whoever copies by its grant finds out what to say of it.
            self.direct.expected = false;
            return Ok(Straight::No);
        }
        let received = port.receive(&mut into);
        drop(into);
        match received {
            Ok(Received::Frame { len, offload }) => self.finish(pages, len, offload, now),
            Ok(Received::Lost) => {
                self.shared.stats.rx.count_dropped();
                Ok(Straight::Read)
            }
            Ok(Received::Nothing) => {
                self.direct.pages = Some(pages);
                self.port_empty = true;
                Ok(Straight::No)
            }
            Err(error) => {
                tracing::debug!(%error, "the port failed");
                self.shared.stats.rx.count_error();
                self.port_empty = true;
                Ok(Straight::No)
            }
        }
    }

    fn map_next(&self) -> Mappings {
        let slots = self.posted.iter().enumerate().filter(|(n, _)| *n != 1);
        let wanted: Vec<_> = slots
            .take(PAGES)
            .map(|(_, request)| (request.gref, Access::ReadWrite))
            .collect();
        let shared = &self.shared;
        shared.grants.map_all(shared.granter, &wanted)
    }

    /// Gives the frame that lies in the pages to the guest, if it lies there as it must.
    fn finish(
        &mut self,
        pages: Mappings,
        len: usize,
        offload: Offload,
        now: Instant,
    ) -> Result<Straight, RingBroken> {
        let info = FrameInfo {
            len,
            offload,
            hash: None,
        };
        self.direct.seen(&info);
        let mut headers = [0; HEADERS_MAX];
        let seen = copy_out(&pages, &mut headers);
        // A private copy: what the guest writes over it meanwhile is its own affair.
        let headers = headers.get(..seen.min(len)).unwrap_or_default();
        let said = Said::of(&info, &self.front);
        let [Some(extra), None] = said.extras else {
            return self.copy_back(pages, info);
        };
        let plan = self.front.plan(headers, self.layout(), &info);
        if said.prefix.is_some() || plan != Plan::Pass || !self.shared.lets_in(headers) {
            return self.copy_back(pages, info);
        }
        self.shared.rx_credit.spend(now, len);
        // Not before this may the guest take the pages for its own.
        drop(pages);
        let mut left = len;
        let mut flags = said.flags | NETRXF_extra_info;
        let mut first = true;
        while left > 0 {
            let Some(request) = self.posted.pop_front() else {
                break;
            };
            let here = left.min(PAGE_SIZE);
            left -= here;
            if left > 0 {
                flags |= NETRXF_more_data;
            }
            self.ring.push_response(&NetifRxResponse {
                id: request.id,
                offset: 0,
                flags,
                status: i16::try_from(here).unwrap_or(NETIF_RSP_ERROR),
            })?;
            flags = 0;
            if std::mem::take(&mut first) {
                self.posted.pop_front();
                self.ring.push_response(&extra.to_rx_slot())?;
            }
        }
        self.shared.stats.rx.count(1, len as u64);
        Ok(Straight::Given)
    }

    /// Takes the frame out of the pages again, and keeps it as one that was read otherwise.
    fn copy_back(&mut self, pages: Mappings, info: FrameInfo) -> Result<Straight, RingBroken> {
        if let Some(room) = self.backlog.room(info.len) {
            copy_out(&pages, room);
            drop(pages);
            self.keep_read(info.len, info);
        } else {
            self.shared.stats.rx.count_dropped();
        }
        Ok(Straight::Read)
    }
}

/// Copies the pages' bytes, as many as there is room for; returns how many.
fn copy_out(pages: &Mappings, into: &mut [u8]) -> usize {
    let mut filled = 0;
    for page in pages.iter().flatten() {
        let room = into.get_mut(filled..).unwrap_or_default();
        match Part::shared(page, 0, PAGE_SIZE) {
            Some(part) if !room.is_empty() => filled += part.copy_to(room),
            _ => break,
        }
    }
    filled
}
