//! What may be said to an interface while it is served.

use std::sync::Arc;

use crate::credit::Rate;
use crate::shared::Shared;

/// A handle of a running interface. Any thread may use it; after the back end's end it does nothing.
#[derive(Clone, Debug)]
pub struct NetControl {
    pub(crate) shared: Arc<Shared>,
}

impl NetControl {
    /// Limits what the guest may send, from now on; `None`: no longer.
    pub fn set_tx_rate(&self, rate: Option<Rate>) {
        self.shared.tx_credit.set(rate);
        self.shared.wake_queues();
    }

    /// Limits what the guest is sent, from now on; `None`: no longer.
    pub fn set_rx_rate(&self, rate: Option<Rate>) {
        self.shared.rx_credit.set(rate);
        self.shared.wake_queues();
    }

    /// Lets packets through, or none: those that the guest sends are answered as dropped, those for it are lost, and the port is told that
    /// nobody is there.
    pub fn set_link(&self, up: bool) {
        self.shared.set_link(up);
        self.shared.news.signal();
        self.shared.wake_queues();
    }

    /// Whether packets go through.
    #[must_use]
    pub fn link(&self) -> bool {
        self.shared.link()
    }

    /// Publishes the largest IP packet, in bytes, as the back end's `mtu`.
    pub fn set_mtu(&self, mtu: u16) {
        self.shared.set_mtu(mtu);
        self.shared.news.signal();
    }
}
