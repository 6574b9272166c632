//! A block front end.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_abi::io::blkif::{
    BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_SECTOR_SIZE, BlkifRequest, BlkifRequestSegment,
    BlkifResponse,
};
use cantle_abi::ring::{FrontRing, RingBroken, RingFull};
use cantle_abi::{Gfn, GrantRef, PAGE_SIZE};
use cantle_evtchn::{Channel, EventChannels, EvtchnError};
use cantle_grant::test_utils::{GuestPages, HeapGuest};
use cantle_xenstore::Error as StoreError;
use cantle_xenstore::xenbus::{BareFrontend, Keys, XenbusState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::FromZeros;

use super::world::BACK;
use super::{Transfer, World};

/// How long a front end waits for anything before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const SECTORS_PER_PAGE: usize = PAGE_SIZE / BLKIF_SECTOR_SIZE;

/// Why the front end gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// Xenstore refused something.
    #[error("xenstore failed")]
    Store(#[from] StoreError),
    /// No event channel.
    #[error("event channels failed")]
    Channel(#[from] EvtchnError),
    /// The back end broke the ring.
    #[error("the back end broke the ring")]
    Ring(#[from] RingBroken),
    /// The back end answered a request so.
    #[error("the back end answered {0}")]
    Status(i16),
    /// The back end went to a state that leads nowhere.
    #[error("the back end is {0}")]
    State(XenbusState),
    /// A key of the back end is no number.
    #[error("the back end's {0} is no number")]
    Key(&'static str),
    /// Nothing happened for a long time.
    #[error("the back end does not answer")]
    Silence,
    /// The host failed.
    #[error("the host failed")]
    Host(#[from] io::Error),
}

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
    fn take_back(&self, guest: &HeapGuest) {
        if guest.ungrant(self.gref) {
            guest.free_frame(self.gfn);
        }
    }
}

/// The front end of one disk: a ring, its event channel, and 11 granted pages for each of its slots.
pub struct BlkFront {
    bus: BareFrontend,
    guest: Arc<HeapGuest>,
    channel: Box<dyn Channel>,
    pub(super) ring: FrontRing<BlkifRequest, BlkifResponse, GuestPages>,
    ring_page: LentPage,
    /// The pages of each slot. A request's `id` is the number of its slot.
    pub(super) slots: Vec<Vec<LentPage>>,
    pub(super) free: VecDeque<usize>,
    pub(super) sectors: u64,
}

impl BlkFront {
    /// Does the whole handshake, while somebody else serves the backend.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn connect(world: &World) -> Result<Self, FrontError> {
        let mut front = Self::start(world)?;
        front.wait_connected()?;
        Ok(front)
    }

    /// The first half of the handshake: ring and channel are made and published, state `Initialised`.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn start(world: &World) -> Result<Self, FrontError> {
        let guest = Arc::clone(world.guest());
        let client = world.client(super::world::FRONT)?;
        let bus = BareFrontend::new(client, world.id())?;
        let channel = world.front_channels().alloc_unbound(BACK)?;
        let ring_page = LentPage::new(&guest);
        let ring = FrontRing::init(ring_page.memory.clone())?;
        let slots: Vec<Vec<_>> = (0..ring.slots())
            .map(|_| {
                (0..BLKIF_MAX_SEGMENTS_PER_REQUEST)
                    .map(|_| LentPage::new(&guest))
                    .collect()
            })
            .collect();
        let front = Self {
            bus,
            channel,
            ring_page,
            free: (0..slots.len()).collect(),
            slots,
            ring,
            guest,
            sectors: 0,
        };
        front.publish(&[])?;
        Ok(front)
    }

    /// Publishes the usual keys and `extra` ones, which may contradict them, with state `Initialised`.
    ///
    /// # Errors
    ///
    /// [`FrontError::Store`].
    pub fn publish(&self, extra: &[(&str, &str)]) -> Result<(), FrontError> {
        let mut keys: Keys = vec![
            ("ring-ref".to_owned(), self.ring_page.gref.to_string()),
            ("event-channel".to_owned(), self.channel.port().to_string()),
            ("protocol".to_owned(), "x86_64-abi".to_owned()),
        ];
        for (key, value) in extra {
            keys.push(((*key).to_owned(), (*value).to_owned()));
        }
        self.bus.publish(&keys, XenbusState::INITIALISED)?;
        Ok(())
    }

    /// The second half: where the back end is connected, reads the disk's size and goes to `Connected`; else false.
    ///
    /// # Errors
    ///
    /// [`FrontError`]; [`FrontError::State`] where the back end has refused.
    pub fn finish(&mut self) -> Result<bool, FrontError> {
        match self.bus.backend_state()? {
            XenbusState::CONNECTED => {}
            state @ (XenbusState::CLOSING | XenbusState::CLOSED) => {
                return Err(FrontError::State(state));
            }
            _ => return Ok(false),
        }
        let sectors = self.bus.backend_key("sectors")?;
        self.sectors = sectors.parse().map_err(|_| FrontError::Key("sectors"))?;
        self.bus.publish(&Vec::new(), XenbusState::CONNECTED)?;
        Ok(true)
    }

    fn wait_connected(&mut self) -> Result<(), FrontError> {
        let end = Instant::now() + PATIENCE;
        while !self.finish()? {
            sleep_on(self.bus.event_fd(), end)?;
        }
        Ok(())
    }

    /// Waits until the back end is in a state.
    ///
    /// # Errors
    ///
    /// [`FrontError::Silence`] where it does not come.
    pub fn wait_state(&self, state: XenbusState) -> Result<(), FrontError> {
        let end = Instant::now() + PATIENCE;
        while self.bus.backend_state()? != state {
            sleep_on(self.bus.event_fd(), end)?;
        }
        Ok(())
    }

    /// Says a state, without any of what a driver does for it.
    ///
    /// # Errors
    ///
    /// [`FrontError::Store`].
    pub fn set_state(&self, state: XenbusState) -> Result<(), FrontError> {
        Ok(self.bus.publish(&Vec::new(), state)?)
    }

    /// Disconnects in good order, and says that it will start again: a new [`BlkFront`] may connect.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn close(self) -> Result<(), FrontError> {
        self.set_state(XenbusState::CLOSING)?;
        self.wait_state(XenbusState::CLOSING)?;
        self.set_state(XenbusState::CLOSED)?;
        self.wait_state(XenbusState::CLOSED)?;
        self.set_state(XenbusState::INITIALISING)?;
        self.wait_state(XenbusState::INIT_WAIT)
    }

    /// The disk's size in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What the back end has published under a key.
    ///
    /// # Errors
    ///
    /// [`FrontError::Store`] where it is missing.
    pub fn backend_key(&self, key: &str) -> Result<String, FrontError> {
        Ok(self.bus.backend_key(key)?)
    }

    /// The ring's own memory, for attacks.
    #[must_use]
    pub fn ring_page(&self) -> &LentPage {
        &self.ring_page
    }

    /// A page of a slot and its grant; `page` is 0 to 10.
    #[must_use]
    pub fn page(&self, slot: usize, page: usize) -> Option<&LentPage> {
        self.slots.get(slot)?.get(page)
    }

    /// A well-formed request for a slot: as many of its pages as the bytes need.
    #[must_use]
    pub fn request(&self, slot: usize, transfer: &Transfer) -> BlkifRequest {
        let mut request = BlkifRequest::new_zeroed();
        request.operation = transfer.operation;
        request.id = slot as u64;
        request.sector_number = transfer.sector;
        let mut sectors = transfer.bytes / BLKIF_SECTOR_SIZE;
        let pages = self.slots.get(slot).map_or(&[][..], Vec::as_slice);
        for (segment, page) in request.seg.iter_mut().zip(pages) {
            if sectors == 0 {
                break;
            }
            let here = sectors.min(SECTORS_PER_PAGE);
            *segment = BlkifRequestSegment {
                gref: page.gref,
                first_sect: 0,
                last_sect: u8::try_from(here - 1).unwrap_or(0),
                pad: 0,
            };
            request.nr_segments += 1;
            sectors -= here;
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

impl Drop for BlkFront {
    /// Takes the grants back. Pages that the back end still uses stay granted.
    fn drop(&mut self) {
        for page in self.slots.iter().flatten().chain([&self.ring_page]) {
            page.take_back(&self.guest);
        }
    }
}

impl fmt::Debug for BlkFront {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlkFront")
            .field("ring", &self.ring)
            .field("sectors", &self.sectors)
            .finish_non_exhaustive()
    }
}

/// Sleeps until a descriptor is readable.
fn sleep_on(fd: BorrowedFd<'_>, end: Instant) -> Result<(), FrontError> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(FrontError::Silence);
    }
    let timeout = Timespec::try_from(left).map_err(|_| FrontError::Silence)?;
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(FrontError::Host(error.into())),
    }
}
