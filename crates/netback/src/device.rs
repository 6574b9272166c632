//! The interface as xenbus sees it: what it offers, and connecting and disconnecting.

use std::fmt;
use std::sync::Arc;

use cantle_abi::ring::{BackRing, RingBroken};
use cantle_abi::{DomId, GrantRef, Port};
use cantle_evtchn::{Channel, EventChannels, EvtchnError};
use cantle_grant::{Access, GrantMapper, GrantStatus, Mapping};
use cantle_xenstore::xenbus::{Device, DeviceError, Keys, OtherEnd};

use crate::poller::{Poller, Ready, Source};
use crate::rx::{FrontEnd, RxQueue};
use crate::stats::Stats;
use crate::tx::TxQueue;
use cantle_netport::NetPort;

/// What the back end publishes before it waits for a front end. There is no control ring, and no second queue.
const OFFERED: [(&str, &str); 10] = [
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
    ("feature-rx-copy", "1"),
    ("feature-rx-flip", "0"),
    ("feature-rx-notify", "1"),
    ("feature-multicast-control", "0"),
    ("feature-split-event-channels", "1"),
    ("multi-queue-max-queues", "1"),
];

/// Why a front end could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It lacks what this back end cannot do without.
    #[error("the front end does not say {key}=1, and nothing else is supported")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// It wants more queues than were offered.
    #[error("the front end wants {0} queues of 1")]
    Queues(u32),
    /// A ring's page cannot be mapped.
    #[error("cannot map {key} {gref}")]
    Map {
        /// Which ring.
        key: &'static str,
        /// Its page, as the front end said.
        gref: GrantRef,
        /// Why.
        #[source]
        source: GrantStatus,
    },
    /// A page is no ring.
    #[error("{key} is no ring")]
    Ring {
        /// Which ring.
        key: &'static str,
        /// What is wrong.
        #[source]
        source: RingBroken,
    },
    /// An event channel cannot be bound.
    #[error("cannot bind {key} {port}")]
    Channel {
        /// Which channel.
        key: &'static str,
        /// Its port, as the front end said.
        port: Port,
        /// Why.
        #[source]
        source: EvtchnError,
    },
}

/// The two rings and their event channels, while a front end is connected.
#[derive(Debug)]
struct Connection {
    tx: TxQueue,
    rx: RxQueue,
    channels: Channels,
}

/// One channel for both rings, or one for each.
struct Channels {
    tx: Box<dyn Channel>,
    rx: Option<Box<dyn Channel>>,
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels")
            .field("tx", &self.tx.port())
            .field("rx", &self.rx.as_ref().map(|rx| rx.port()))
            .finish()
    }
}

impl Channels {
    fn rx(&self) -> &dyn Channel {
        self.rx.as_deref().unwrap_or(&*self.tx)
    }
}

/// A virtual interface: the half of the back end that xenbus drives.
pub(crate) struct Vif {
    granter: DomId,
    event_channels: Arc<dyn EventChannels>,
    grants: Arc<dyn GrantMapper>,
    port: Box<dyn NetPort>,
    poller: Arc<Poller>,
    stats: Arc<Stats>,
    connection: Option<Connection>,
}

impl fmt::Debug for Vif {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vif")
            .field("granter", &self.granter)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Vif {
    pub(crate) fn new(
        granter: DomId,
        event_channels: Arc<dyn EventChannels>,
        grants: Arc<dyn GrantMapper>,
        mut port: Box<dyn NetPort>,
        poller: Arc<Poller>,
    ) -> Self {
        port.set_link(false);
        Self {
            granter,
            event_channels,
            grants,
            port,
            poller,
            stats: Arc::default(),
            connection: None,
        }
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Serves the rings, also without a signal where work was left over (`again`); true where work is left over now. On an error the rings are given up at once.
    pub(crate) fn serve(&mut self, ready: Ready, again: bool) -> Result<bool, RingBroken> {
        let Some(connection) = &mut self.connection else {
            return Ok(false);
        };
        let served = connection.serve(
            ready,
            again,
            &*self.grants,
            self.granter,
            &mut *self.port,
            &self.stats,
        );
        if served.is_err() {
            self.give_up();
        }
        served
    }

    fn give_up(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let Channels { tx, rx } = &connection.channels;
        for channel in [Some(tx), rx.as_ref()].into_iter().flatten() {
            self.poller.remove(channel.eventfd());
        }
        if let Some(fd) = self.port.fd() {
            self.poller.remove(fd);
        }
        self.port.set_link(false);
    }

    fn map_ring(&self, front: &OtherEnd<'_>, key: &'static str) -> Result<Mapping, DeviceError> {
        let gref = front.require(key).map(GrantRef)?;
        let mapped = self.grants.map(self.granter, gref, Access::ReadWrite);
        Ok(mapped.map_err(|source| ConnectError::Map { key, gref, source })?)
    }

    fn bind(&self, key: &'static str, port: Port) -> Result<Box<dyn Channel>, ConnectError> {
        self.event_channels
            .bind_interdomain(self.granter, port)
            .map_err(|source| ConnectError::Channel { key, port, source })
    }

    fn bind_channels(&self, front: &OtherEnd<'_>) -> Result<Channels, DeviceError> {
        if let Some(tx) = front.optional("event-channel-tx")?.map(Port) {
            let rx = front.require("event-channel-rx").map(Port)?;
            Ok(Channels {
                tx: self.bind("event-channel-tx", tx)?,
                rx: Some(self.bind("event-channel-rx", rx)?),
            })
        } else {
            let both = front.require("event-channel").map(Port)?;
            Ok(Channels {
                tx: self.bind("event-channel", both)?,
                rx: None,
            })
        }
    }

    /// Adds what a connection is woken by; nothing stays added on failure.
    fn watch(&self, channels: &Channels) -> std::io::Result<()> {
        let tx = channels.tx.eventfd();
        let rx = channels.rx.as_ref().map(|rx| rx.eventfd());
        let port = self.port.fd();
        let added = self
            .poller
            .add(tx, Source::Tx)
            .and_then(|()| rx.map_or(Ok(()), |rx| self.poller.add(rx, Source::Rx)))
            .and_then(|()| port.map_or(Ok(()), |port| self.poller.add(port, Source::Port)));
        if added.is_err() {
            for fd in [Some(tx), rx, port].into_iter().flatten() {
                self.poller.remove(fd);
            }
        }
        added
    }
}

impl Connection {
    fn serve(
        &mut self,
        ready: Ready,
        again: bool,
        grants: &dyn GrantMapper,
        granter: DomId,
        port: &mut dyn NetPort,
        stats: &Stats,
    ) -> Result<bool, RingBroken> {
        let mut more = false;
        let tx_ready = ready.has(Source::Tx);
        if tx_ready {
            self.channels.tx.take();
        }
        if ready.has(Source::Rx) {
            self.channels.rx().take();
        }
        if tx_ready || again {
            let pass = self.tx.process(grants, granter, port, &stats.tx)?;
            more |= pass.more;
            if pass.notify {
                notify(&*self.channels.tx);
            }
        }
        if ready.has(Source::Port) {
            self.rx.port_ready();
        }
        // With one channel for both rings it may stand for pages posted.
        let rx_ready = ready.has(Source::Rx) || ready.has(Source::Port);
        if rx_ready || again || (tx_ready && self.channels.rx.is_none()) {
            let pass = self.rx.process(grants, granter, port, &stats.rx)?;
            more |= pass.more;
            if pass.notify {
                notify(self.channels.rx());
            }
        }
        Ok(more)
    }
}

/// A peer that has closed its end is on its way to close the device: xenbus will tell.
fn notify(channel: &dyn Channel) {
    if let Err(error) = channel.notify() {
        tracing::debug!(port = %channel.port(), %error, "cannot notify");
    }
}

/// Reads a 0 or 1 key, with what its absence means.
fn flag(front: &OtherEnd<'_>, key: &str, absent: bool) -> Result<bool, DeviceError> {
    let value: Option<u32> = front.optional(key)?;
    Ok(value.map_or(absent, |value| value != 0))
}

fn require_flag(front: &OtherEnd<'_>, key: &'static str) -> Result<(), DeviceError> {
    if flag(front, key, false)? {
        Ok(())
    } else {
        Err(ConnectError::Missing { key }.into())
    }
}

impl Device for Vif {
    fn describe(&self) -> Keys {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        OFFERED.into_iter().map(owned).collect()
    }

    fn connect(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        require_flag(front, "request-rx-copy")?;
        // Without it we could go to sleep on an empty ring for ever.
        require_flag(front, "feature-rx-notify")?;
        match front.optional("multi-queue-num-queues")? {
            None | Some(1) => {}
            Some(queues) => return Err(ConnectError::Queues(queues).into()),
        }
        let front_end = FrontEnd {
            sg: flag(front, "feature-sg", false)?,
            gso_v4: flag(front, "feature-gso-tcpv4", false)?,
            gso_v6: flag(front, "feature-gso-tcpv6", false)?,
            csum_v4: !flag(front, "feature-no-csum-offload", false)?,
            csum_v6: flag(front, "feature-ipv6-csum-offload", false)?,
        };
        let ring = |key, source| ConnectError::Ring { key, source };
        let tx = BackRing::attach(self.map_ring(front, "tx-ring-ref")?)
            .map_err(|source| ring("tx-ring-ref", source))?;
        let rx = BackRing::attach(self.map_ring(front, "rx-ring-ref")?)
            .map_err(|source| ring("rx-ring-ref", source))?;
        let channels = self.bind_channels(front)?;
        self.port.accept(front_end.offloads())?;
        self.watch(&channels)?;
        self.port.set_link(true);
        self.connection = Some(Connection {
            tx: TxQueue::new(tx),
            rx: RxQueue::new(rx, front_end),
            channels,
        });
        Ok(Keys::new())
    }

    fn disconnect(&mut self) {
        self.give_up();
    }
}
