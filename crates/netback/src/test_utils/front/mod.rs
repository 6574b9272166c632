//! The guest's side: a front end over real rings, which also does what no honest one would.

mod control;
mod options;
mod page;
mod queue;
mod receive;
mod transmit;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_evtchn::EventChannels;
use cantle_grant::test_utils::HeapGuest;
use cantle_xenstore::prelude::*;
use cantle_xenstore::xenbus::{DeviceId, XenbusState};
use cantle_xenstore::{LocalClient, TxId};

pub use control::FrontControl;
pub use options::{FrontOptions, Incoming, Outgoing};
pub use queue::FrontQueue;

/// A network front end, as a guest's kernel has one.
///
/// It is its first queue where nothing else is said; the others are in [`queues`](Self::queues).
#[derive(Debug)]
pub struct NetFront {
    queues: Vec<FrontQueue>,
    control: Option<FrontControl>,
    client: LocalClient,
    id: DeviceId,
}

impl Deref for NetFront {
    type Target = FrontQueue;

    fn deref(&self) -> &FrontQueue {
        &self.queues[0]
    }
}

impl DerefMut for NetFront {
    fn deref_mut(&mut self) -> &mut FrontQueue {
        &mut self.queues[0]
    }
}

fn one(flag: bool) -> String {
    u8::from(flag).to_string()
}

impl NetFront {
    pub(super) fn publish(
        guest: Arc<HeapGuest>,
        channels: &dyn EventChannels,
        client: LocalClient,
        id: &DeviceId,
        options: &FrontOptions,
    ) -> Self {
        let to = id.backend;
        let queue = |_| FrontQueue::new(guest.clone(), channels, to, options);
        let control = || FrontControl::new(guest.clone(), channels, to);
        let front = Self {
            queues: (0..options.queues.max(1)).map(queue).collect(),
            control: options.control.then(control),
            client,
            id: id.clone(),
        };
        for (key, value) in [
            ("request-rx-copy", "1".to_owned()),
            ("feature-rx-notify", "1".to_owned()),
            ("feature-sg", one(options.sg)),
            ("feature-gso-tcpv4", one(options.gso_v4)),
            ("feature-gso-tcpv6", one(options.gso_v6)),
            ("feature-gso-tcpv4-prefix", one(options.gso_v4_prefix)),
            ("feature-gso-tcpv6-prefix", one(options.gso_v6_prefix)),
            ("feature-no-csum-offload", one(!options.csum_v4)),
            ("feature-ipv6-csum-offload", one(options.csum_v6)),
            ("request-multicast-control", one(options.multicast)),
            ("xdp-headroom", options.headroom.to_string()),
        ] {
            front.write_key(key, &value);
        }
        let several = front.queues.len() > 1;
        if several {
            front.write_key("multi-queue-num-queues", &options.queues.to_string());
        }
        for (n, queue) in front.queues.iter().enumerate() {
            for (key, value) in queue.keys() {
                if several {
                    front.write_key(&format!("queue-{n}/{key}"), &value);
                } else {
                    front.write_key(key, &value);
                }
            }
        }
        for (key, value) in front.control.iter().flat_map(FrontControl::keys) {
            front.write_key(key, &value);
        }
        for (key, value) in &options.keys {
            front.write_key(key, value);
        }
        front.set_state(XenbusState::CONNECTED);
        front
    }

    /// Its queues, to be served in any order, or each by a thread of its own.
    pub fn queues(&mut self) -> &mut [FrontQueue] {
        &mut self.queues
    }

    /// Its control ring.
    ///
    /// # Panics
    ///
    /// Where it was made without one.
    pub fn control(&mut self) -> &mut FrontControl {
        self.control.as_mut().expect("a control ring")
    }

    /// Its queues and its control ring.
    ///
    /// # Panics
    ///
    /// Where it was made without a control ring.
    pub fn parts(&mut self) -> (&mut [FrontQueue], &mut FrontControl) {
        let control = self.control.as_mut().expect("a control ring");
        (&mut self.queues, control)
    }

    /// Writes a key of the front end's directory; an empty value removes it.
    ///
    /// # Panics
    ///
    /// Where the store refuses.
    pub fn write_key(&self, key: &str, value: &str) {
        let path = format!("{}/{key}", self.id.frontend_path());
        if value.is_empty() {
            self.client.rm(TxId::NONE, &path).expect("a key");
        } else {
            let written = self.client.write(TxId::NONE, &path, value.as_bytes());
            written.expect("the front end's own directory");
        }
    }

    /// Writes the front end's state.
    ///
    /// # Panics
    ///
    /// Where the store refuses.
    pub fn set_state(&self, state: XenbusState) {
        self.write_key("state", &state.0.to_string());
    }

    /// Asks for another `xdp-headroom` (`Reconfiguring`). When the back end says `Reconfigured`, [`set_state`](Self::set_state)
    /// says `Connected` again.
    ///
    /// # Panics
    ///
    /// Where the store refuses.
    pub fn set_headroom(&self, bytes: u16) {
        self.write_key("xdp-headroom", &bytes.to_string());
        self.set_state(XenbusState::RECONFIGURING);
    }

    /// The back end's state, as published.
    #[must_use]
    pub fn backend_state(&self) -> XenbusState {
        let path = format!("{}/state", self.id.backend_path());
        let text = self.client.read(TxId::NONE, &path);
        text.map_or(XenbusState::UNKNOWN, |text| XenbusState::parse(&text))
    }

    /// A key of the back end's directory.
    #[must_use]
    pub fn backend_key(&self, key: &str) -> Option<String> {
        let path = format!("{}/{key}", self.id.backend_path());
        self.client.read_string(TxId::NONE, &path).ok()
    }

    /// Waits for a back end that runs elsewhere to reach a state; false where it has not after `patience`.
    #[must_use]
    pub fn wait_state(&self, state: XenbusState, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while self.backend_state() != state {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}
