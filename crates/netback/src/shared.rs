//! What an interface's queues have in common.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cantle_abi::DomId;
use cantle_grant::GrantMapper;
use cantle_netport::NetPort;

use crate::control::{HashConfig, SharedHash};
use crate::credit::Credit;
use crate::event::Event;
use crate::multicast::MulticastFilter;
use crate::options::BackendOptions;
use crate::stats::Stats;

/// What is known of an interface beside its rings. It lives longer than a connection; [`forget`](Self::forget) takes away what a front end
/// has set.
pub(crate) struct Shared {
    pub(crate) granter: DomId,
    pub(crate) grants: Arc<dyn GrantMapper>,
    pub(crate) options: BackendOptions,
    pub(crate) stats: Arc<Stats>,
    pub(crate) tx_credit: Credit,
    pub(crate) rx_credit: Credit,
    pub(crate) hash: Arc<SharedHash>,
    pub(crate) multicast: MulticastFilter,
    /// A queue or the embedder has news for the interface's own thread.
    pub(crate) news: Event,
    link: AtomicBool,
    /// How many queues are stalled: their guest takes no packets.
    stalled: Mutex<u32>,
    headroom: AtomicU16,
    /// 0: none is told.
    mtu: AtomicU16,
    /// By which the queues of the connection are woken.
    queues: Mutex<Vec<Arc<Event>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("granter", &self.granter)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        granter: DomId,
        grants: Arc<dyn GrantMapper>,
        options: BackendOptions,
    ) -> std::io::Result<Self> {
        Ok(Self {
            granter,
            grants,
            options,
            stats: Arc::default(),
            tx_credit: Credit::new(options.tx_rate),
            rx_credit: Credit::new(options.rx_rate),
            hash: Arc::new(SharedHash::new(HashConfig::new(NonZeroU32::MIN))),
            multicast: MulticastFilter::default(),
            news: Event::new()?,
            link: AtomicBool::new(options.link),
            stalled: Mutex::default(),
            headroom: AtomicU16::new(0),
            mtu: AtomicU16::new(options.mtu.unwrap_or(0)),
            queues: Mutex::default(),
        })
    }

    /// Nothing of the front end that was there is left for the next one.
    pub(crate) fn forget(&self) {
        let hash = HashConfig::new(NonZeroU32::MIN);
        self.hash.store(Arc::new(hash));
        self.multicast.reset();
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.headroom.store(0, Ordering::Relaxed);
    }

    /// Whether packets go through.
    pub(crate) fn link(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }

    pub(crate) fn set_link(&self, up: bool) {
        self.link.store(up, Ordering::Relaxed);
    }

    /// Tells a port whether somebody is there: no queue may be stalled, since a device has one link for all of its ports.
    pub(crate) fn tell_link(&self, port: &mut dyn NetPort) {
        self.stall(port, |stalled| stalled);
    }

    /// A queue is stalled.
    pub(crate) fn queue_stalls(&self, port: &mut dyn NetPort) {
        self.stall(port, |stalled| stalled.saturating_add(1));
    }

    /// A queue is stalled no longer.
    pub(crate) fn queue_recovers(&self, port: &mut dyn NetPort) {
        self.stall(port, |stalled| stalled.saturating_sub(1));
    }

    /// With the lock held while the port is told, so that what is told last is what is so.
    fn stall(&self, port: &mut dyn NetPort, change: impl FnOnce(u32) -> u32) {
        let mut stalled = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        *stalled = change(*stalled);
        port.set_link(self.link() && *stalled == 0);
    }

    /// What is told as the largest IP packet.
    pub(crate) fn mtu(&self) -> Option<u16> {
        Some(self.mtu.load(Ordering::Relaxed)).filter(|mtu| *mtu != 0)
    }

    pub(crate) fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// The connection's queues are woken by these from now on.
    pub(crate) fn told_queues(&self, events: Vec<Arc<Event>>) {
        *self.queues.lock().unwrap_or_else(PoisonError::into_inner) = events;
    }

    /// Every queue looks whether what held it up is still so.
    pub(crate) fn wake_queues(&self) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.iter().for_each(|event| event.signal());
    }

    /// `xdp-headroom`: bytes left free at the start of each of the guest's pages.
    pub(crate) fn headroom(&self) -> u16 {
        self.headroom.load(Ordering::Relaxed)
    }

    pub(crate) fn set_headroom(&self, bytes: u16) {
        self.headroom.store(bytes, Ordering::Relaxed);
    }

    /// Whether a frame that begins like this is for the guest.
    pub(crate) fn lets_in(&self, headers: &[u8]) -> bool {
        if !self.link() {
            return false;
        }
        let destination = headers.first_chunk();
        destination.is_none_or(|destination| self.multicast.passes(*destination))
    }
}
