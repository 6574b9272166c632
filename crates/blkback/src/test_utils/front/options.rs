//! What kind of front end it is.

use cantle_abi::io::blkif::keys as key;
use cantle_xenstore::xenbus::Keys;

use crate::Protocol;

/// What a front end asks for. Nothing is held against what the back end offers, but for the segments of its own requests: what was not
/// offered can be asked for, to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontOptions {
    /// The layout of its slots.
    pub protocol: Protocol,
    /// log2 of the pages of each ring, 0 to 4.
    pub ring_page_order: u8,
    /// Under which name it says so, where that is not 0.
    pub spelling: RingSpelling,
    /// How many queues, each with a ring, an event channel and pages of its own; at least 1.
    pub queues: u16,
    /// Whether it says that it uses the same grants again (`feature-persistent`). It does so in any case.
    pub persistent: bool,
    /// The most segments of a request, up to 256. More than 11 go by an indirect request, where the back end offers that.
    pub segments: u16,
}

impl Default for FrontOptions {
    /// One queue of one page in the native layout, 11 segments, no persistent grants: what every back end has.
    fn default() -> Self {
        Self {
            protocol: Protocol::Native,
            ring_page_order: 0,
            spelling: RingSpelling::Order,
            queues: 1,
            persistent: false,
            segments: 11,
        }
    }
}

/// How a front end names the size of its rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingSpelling {
    /// `ring-page-order`, as Linux.
    #[default]
    Order,
    /// `num-ring-pages`, as older ones.
    Pages,
    /// Both.
    Both,
}

impl FrontOptions {
    /// The keys that do not belong to a queue.
    pub(super) fn keys(&self) -> Keys {
        let mut keys: Keys = vec![(key::PROTOCOL.to_owned(), self.protocol.name().to_owned())];
        let mut say = |name: &str, value: u32| keys.push((name.to_owned(), value.to_string()));
        let order = self.ring_page_order;
        if order != 0 && self.spelling != RingSpelling::Pages {
            say(key::RING_PAGE_ORDER, order.into());
        }
        if order != 0 && self.spelling != RingSpelling::Order {
            say(key::NUM_RING_PAGES, 1 << order);
        }
        if self.queues > 1 {
            say(key::MULTI_QUEUE_NUM_QUEUES, self.queues.into());
        }
        if self.persistent {
            say(key::FEATURE_PERSISTENT, 1);
        }
        keys
    }

    /// Where a queue's keys are.
    pub(super) fn directory(&self, queue: usize) -> String {
        if self.queues > 1 {
            format!("queue-{queue}/")
        } else {
            String::new()
        }
    }
}

/// Whether a key is one that some front end writes and the next one may not.
pub(super) fn is_of_a_front_end(key: &str) -> bool {
    const STARTS: [&str; 7] = [
        "ring-",
        "num-ring-",
        "multi-queue-",
        "queue-",
        "feature-",
        key::PROTOCOL,
        key::EVENT_CHANNEL,
    ];
    STARTS.iter().any(|start| key.starts_with(start))
}
