//! A port, as the switch's other parts share it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use cantle_netport::{Frame, FrameSink};

use crate::DropReason;
use crate::counters::Live;
use crate::limit::Bucket;
use crate::table::Owner;

/// Which port of a switch. No two that ever were have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub(crate) u64);

const SLOT_BITS: u32 = 16;

impl PortId {
    /// The `serial`th port that there ever was, in a slot below 65536 that others had before it.
    pub(crate) fn new(serial: u64, slot: u16) -> Self {
        Self(serial << SLOT_BITS | u64::from(slot))
    }

    pub(crate) fn slot(self) -> usize {
        usize::try_from(self.0 & 0xffff).unwrap_or(usize::MAX)
    }

    /// How many ports there were before it in the switch's life.
    #[must_use]
    pub const fn serial(self) -> u64 {
        self.0 >> SLOT_BITS
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serial().fmt(f)
    }
}

impl fmt::Debug for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortId({})", self.serial())
    }
}

/// Who receives. Readers hold the lock while they deliver, so a writer that got it knows that nobody does.
#[derive(Default)]
struct Receiver {
    sink: Option<Arc<dyn FrameSink>>,
    closed: bool,
}

pub(crate) struct Port {
    pub(crate) id: PortId,
    pub(crate) owner: Arc<Owner>,
    pub(crate) counters: Live,
    pub(crate) broadcast: Bucket,
    pub(crate) multicast: Bucket,
    pub(crate) unknown: Bucket,
    pub(crate) queues: AtomicU32,
    pub(crate) link: AtomicBool,
    receiver: RwLock<Receiver>,
}

impl Port {
    pub(crate) fn new(owner: Arc<Owner>) -> Self {
        Self {
            id: owner.id,
            owner,
            counters: Live::default(),
            broadcast: Bucket::default(),
            multicast: Bucket::default(),
            unknown: Bucket::default(),
            queues: AtomicU32::new(0),
            link: AtomicBool::new(false),
            receiver: RwLock::default(),
        }
    }

    /// Gives frames to whoever receives, and counts. The caller holds no lock.
    pub(crate) fn deliver(&self, frames: &mut [Frame<'_>]) {
        for frame in frames.iter_mut() {
            frame.taken = false;
        }
        let receiver = self.receiver.read().unwrap_or_else(PoisonError::into_inner);
        let Some(sink) = &receiver.sink else {
            self.counters.drop(DropReason::NoSink, frames.len() as u64);
            return;
        };
        sink.deliver(frames);
        drop(receiver);
        let (mut packets, mut bytes) = (0, 0);
        for frame in frames.iter().filter(|frame| frame.taken) {
            packets += 1;
            bytes += frame.len as u64;
        }
        self.counters.tx_packets.add(packets);
        self.counters.tx_bytes.add(bytes);
        let refused = (frames.len() as u64).saturating_sub(packets);
        if refused != 0 {
            self.counters.drop(DropReason::NotTaken, refused);
        }
    }

    /// Changes who receives; on return nobody delivers to the old one any more.
    pub(crate) fn set_sink(&self, sink: Option<Arc<dyn FrameSink>>) {
        let mut receiver = self
            .receiver
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if receiver.closed {
            return;
        }
        let old = std::mem::replace(&mut receiver.sink, sink);
        // The old one may end here, and take its time.
        drop(receiver);
        drop(old);
    }

    /// As `set_sink(None)`, for ever.
    pub(crate) fn close(&self) {
        let mut receiver = self
            .receiver
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        receiver.closed = true;
        let old = receiver.sink.take();
        drop(receiver);
        drop(old);
    }

    pub(crate) fn link(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
