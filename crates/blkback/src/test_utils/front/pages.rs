//! The front end's pages.

use std::sync::{Arc, OnceLock};

use cantle_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_SECTOR_SIZE, BlkifRequestSegment,
};
use cantle_abi::{Gfn, GrantRef, PAGE_SIZE};
use cantle_grant::test_utils::{GuestPages, HeapGuest};
use zerocopy::IntoBytes;

use super::super::copy_in;
use super::super::world::BACK;

const SECTORS_PER_PAGE: usize = PAGE_SIZE / BLKIF_SECTOR_SIZE;

/// A page of the guest that is granted to the back end.
#[derive(Clone, Debug)]
pub struct LentPage {
    /// The page, as the guest sees it.
    pub memory: GuestPages,
    /// Its number.
    pub gfn: Gfn,
    /// Its grant, for reading and writing.
    pub gref: GrantRef,
}

impl LentPage {
    /// Takes a free page of the guest and grants it.
    #[must_use]
    pub fn new(guest: &HeapGuest) -> Self {
        let gfn = guest.alloc_frame();
        Self {
            memory: guest.page(gfn),
            gfn,
            gref: guest.grant(BACK, gfn, false),
        }
    }

    /// Takes the grant back. A page that the back end still uses stays lent, and lost to the guest.
    pub(super) fn take_back(&self, guest: &HeapGuest) {
        if guest.ungrant(self.gref) {
            guest.free_frame(self.gfn);
        }
    }
}

/// The pages of one slot, each granted when it is first used, and then used again and again.
#[derive(Debug)]
pub(super) struct Slot {
    guest: Arc<HeapGuest>,
    direct: [OnceLock<LentPage>; BLKIF_MAX_SEGMENTS_PER_REQUEST],
    /// How many pages beyond the direct ones.
    more: usize,
    indirect: OnceLock<Vec<OnceLock<LentPage>>>,
    /// Where the segments of an indirect request stand.
    segments: OnceLock<LentPage>,
}

impl Slot {
    pub(super) fn new(guest: &Arc<HeapGuest>, segments: usize) -> Self {
        Self {
            guest: Arc::clone(guest),
            direct: [const { OnceLock::new() }; BLKIF_MAX_SEGMENTS_PER_REQUEST],
            more: segments.saturating_sub(BLKIF_MAX_SEGMENTS_PER_REQUEST),
            indirect: OnceLock::new(),
            segments: OnceLock::new(),
        }
    }

    pub(super) fn page(&self, page: usize) -> Option<&LentPage> {
        let place = match page.checked_sub(BLKIF_MAX_SEGMENTS_PER_REQUEST) {
            None => self.direct.get(page)?,
            Some(page) => {
                let make = || (0..self.more).map(|_| OnceLock::new()).collect();
                self.indirect.get_or_init(make).get(page)?
            }
        };
        Some(place.get_or_init(|| LentPage::new(&self.guest)))
    }

    pub(super) fn segments(&self) -> &LentPage {
        self.segments.get_or_init(|| LentPage::new(&self.guest))
    }

    /// What a request of so many sectors says of its pages, from their beginnings on; as far as there are pages.
    pub(super) fn cover(&self, sectors: usize) -> impl Iterator<Item = BlkifRequestSegment> {
        let mut left = sectors;
        let mut number = 0;
        std::iter::from_fn(move || {
            let here = left.min(SECTORS_PER_PAGE);
            let last_sect = u8::try_from(here.checked_sub(1)?).ok()?;
            let page = self.page(number)?;
            left -= here;
            number += 1;
            Some(BlkifRequestSegment {
                gref: page.gref,
                first_sect: 0,
                last_sect,
                pad: 0,
            })
        })
    }

    /// Writes a segment into the page of segments; nothing where that has no room for it.
    pub(super) fn write_segment(&self, number: usize, segment: &BlkifRequestSegment) {
        let bytes = segment.as_bytes();
        let at = number.saturating_mul(bytes.len());
        if at < PAGE_SIZE {
            copy_in(&self.segments().memory, at, bytes);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let places = self
            .direct
            .iter()
            .chain(self.indirect.get().into_iter().flatten());
        for page in places.chain([&self.segments]).filter_map(OnceLock::get) {
            page.take_back(&self.guest);
        }
    }
}
