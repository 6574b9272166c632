//! The interface as xenbus sees it: connecting and disconnecting.

use std::num::NonZeroU32;
use std::sync::Arc;

use cantle_abi::ring::{BackRing, RingBroken};
use cantle_abi::{GrantRef, Port};
use cantle_evtchn::{Channel, EventChannels, EvtchnError};
use cantle_grant::{Access, GrantStatus, Mapping};
use cantle_netport::{NetDevice, NetPort};
use cantle_xenstore::xenbus::{Device, DeviceError, Keys, OtherEnd};

use crate::control::{Control, ControlRing, HashConfig, StaticGrants};
use crate::event::{Event, Timer};
use crate::negotiate::{self, Answer, QueueKeys};
use crate::pair::{Pair, Wakes};
use crate::poller::{Poller, Ready, Source};
use crate::rx::{FrontEnd, RxQueue, RxShared};
use crate::shared::Shared;
use crate::sink::Sink;
use crate::steer::Steerer;
use crate::tx::TxQueue;
use crate::worker::Worker;

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
    /// It wants other numbers of queues than were offered.
    #[error("the front end wants {wanted} queues; 1 to {offered} are offered")]
    Queues {
        /// How many it wants.
        wanted: u32,
        /// How many there may be.
        offered: u32,
    },
    /// A ring's page cannot be mapped.
    #[error("cannot map the {ring} ring, {gref}")]
    Map {
        /// Which ring.
        ring: &'static str,
        /// Its page, as the front end said.
        gref: GrantRef,
        /// Why.
        #[source]
        source: GrantStatus,
    },
    /// A page is no ring.
    #[error("the page of the {ring} ring is no ring")]
    Ring {
        /// Which ring.
        ring: &'static str,
        /// What is wrong.
        #[source]
        source: RingBroken,
    },
    /// An event channel cannot be bound.
    #[error("cannot bind the event channel {port} of the {ring} ring")]
    Channel {
        /// Which ring's.
        ring: &'static str,
        /// Its port, as the front end said.
        port: Port,
        /// Why.
        #[source]
        source: EvtchnError,
    },
}

/// The control ring and its event channel.
struct ControlEnd {
    ring: ControlRing,
    channel: Box<dyn Channel>,
}

impl std::fmt::Debug for ControlEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlEnd")
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}

/// What there is while a front end is connected.
#[derive(Debug)]
struct Connection {
    first: Pair,
    workers: Vec<Worker>,
    control: Option<ControlEnd>,
}

/// A virtual interface: the half of the back end that xenbus drives.
pub(crate) struct Vif {
    channels: Arc<dyn EventChannels>,
    /// Where further queues' ports come from.
    device: Option<Arc<dyn NetDevice>>,
    /// The first queue's port, while nobody is connected.
    port: Option<Box<dyn NetPort>>,
    poller: Arc<Poller>,
    shared: Arc<Shared>,
    sink: Arc<Sink>,
    connection: Option<Connection>,
}

impl std::fmt::Debug for Vif {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vif")
            .field("shared", &self.shared)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Vif {
    pub(crate) fn new(
        channels: Arc<dyn EventChannels>,
        device: Option<Arc<dyn NetDevice>>,
        mut port: Box<dyn NetPort>,
        poller: Arc<Poller>,
        shared: Arc<Shared>,
    ) -> Self {
        port.set_link(false);
        Self {
            channels,
            device,
            port: Some(port),
            poller,
            sink: Arc::new(Sink::new(Arc::clone(&shared))),
            shared,
            connection: None,
        }
    }

    fn queues_max(&self) -> u32 {
        let most = self.device.as_ref().map_or(1, |device| device.queues_max());
        self.shared.options.queues_max.min(most).max(1)
    }

    /// Serves the first queue and the control ring, also without a signal where work was left over (`again`); true where work is left over
    /// now. On an error the rings are given up at once, whichever queue's it is.
    pub(crate) fn serve(&mut self, ready: Ready, again: bool) -> Result<bool, RingBroken> {
        if ready.has(Source::News) {
            self.shared.news.take();
            let port = match &mut self.connection {
                Some(connection) => Some(&mut connection.first.port),
                None => None,
            };
            if let Some(port) = port {
                self.shared.tell_link(&mut **port);
            }
        }
        let Some(connection) = &mut self.connection else {
            return Ok(false);
        };
        let served = connection.serve(ready, again, &self.shared);
        if served.is_err() {
            self.give_up();
        }
        served
    }

    fn give_up(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let Connection {
            mut first,
            workers,
            control,
        } = connection;
        // Nobody delivers any more when these return.
        first.port.set_sink(None);
        self.sink.connect(Vec::new());
        self.shared.told_queues(Vec::new());
        drop(workers);
        if let Some(control) = control {
            self.poller.remove(control.channel.eventfd());
        }
        first.unwatch(&self.poller);
        first.port.set_link(false);
        self.port = Some(first.port);
        self.shared.forget();
    }

    fn map_ring(&self, ring: &'static str, gref: GrantRef) -> Result<Mapping, ConnectError> {
        let granter = self.shared.granter;
        let mapped = self.shared.grants.map(granter, gref, Access::ReadWrite);
        mapped.map_err(|source| ConnectError::Map { ring, gref, source })
    }

    fn bind(&self, ring: &'static str, port: Port) -> Result<Box<dyn Channel>, ConnectError> {
        let bound = self.channels.bind_interdomain(self.shared.granter, port);
        bound.map_err(|source| ConnectError::Channel { ring, port, source })
    }

    /// A queue's rings and channels; its port is still to come.
    fn queue(
        &self,
        keys: &QueueKeys,
        front: FrontEnd,
        statics: Arc<StaticGrants>,
    ) -> Result<Half, DeviceError> {
        let broken = |ring| move |source| ConnectError::Ring { ring, source };
        let tx = BackRing::attach(self.map_ring("tx", keys.tx_ring)?).map_err(broken("tx"))?;
        let rx = BackRing::attach(self.map_ring("rx", keys.rx_ring)?).map_err(broken("rx"))?;
        let tx_channel: Arc<dyn Channel> = self.bind("tx", keys.tx_port)?.into();
        let rx_channel = match keys.rx_port {
            Some(port) => self.bind("rx", port)?.into(),
            None => Arc::clone(&tx_channel),
        };
        let told = Arc::new(Event::new()?);
        let rx = RxQueue::new(rx, front, Arc::clone(&self.shared), Arc::clone(&statics));
        Ok(Half {
            tx: TxQueue::new(tx, Arc::clone(&self.shared), statics),
            rx: Arc::new(RxShared::new(rx, rx_channel, Arc::clone(&told))),
            tx_channel,
            split: keys.rx_port.is_some(),
            told,
            timer: Timer::new()?,
        })
    }

    fn control(
        &self,
        wanted: Option<(GrantRef, Port)>,
        queues: NonZeroU32,
        statics: &[Arc<StaticGrants>],
    ) -> Result<Option<ControlEnd>, DeviceError> {
        let Some((gref, port)) = wanted else {
            let none = HashConfig::new(queues);
            self.shared.hash.store(Arc::new(none));
            return Ok(None);
        };
        let ring = BackRing::attach(self.map_ring("control", gref)?).map_err(|source| {
            ConnectError::Ring {
                ring: "control",
                source,
            }
        })?;
        let channel = self.bind("control", port)?;
        let control = Control::new(
            self.shared.granter,
            queues,
            Arc::clone(&self.shared.hash),
            statics.into(),
        );
        Ok(Some(ControlEnd {
            ring: ControlRing::new(ring, control),
            channel,
        }))
    }

    /// Ports for the queues but the first.
    fn ports(&self, count: usize) -> Result<Vec<Box<dyn NetPort>>, DeviceError> {
        let device = self.device.as_deref();
        let ports = (0..count).map(|_| match device {
            Some(device) => device.open_queue(),
            // Never come to: without a device one queue is offered.
            None => Err(std::io::ErrorKind::Unsupported.into()),
        });
        Ok(ports.collect::<Result<_, _>>()?)
    }

    fn connect_queues(&mut self, answer: &Answer) -> Result<(), DeviceError> {
        let count = answer.queues.len();
        let queues = u32::try_from(count).ok().and_then(NonZeroU32::new);
        let queues = queues.unwrap_or(NonZeroU32::MIN);
        let statics: Vec<Arc<StaticGrants>> = (0..count).map(|_| Arc::default()).collect();
        let mut halves = Vec::with_capacity(count);
        for (keys, statics) in answer.queues.iter().zip(&statics) {
            halves.push(self.queue(keys, answer.front, Arc::clone(statics))?);
        }
        let control = self.control(answer.control, queues, &statics)?;
        let offloads = answer.front.offloads();
        let mut ports = self.ports(count - 1)?;
        for port in self.port.iter_mut().chain(&mut ports) {
            port.accept(offloads)?;
        }
        let told = halves.iter().map(|half| Arc::clone(&half.told)).collect();
        let rx = halves.iter().map(|half| Arc::clone(&half.rx)).collect();
        let mut halves = halves.into_iter();
        let first = halves.next();
        let mut workers = Vec::with_capacity(count - 1);
        for (half, port) in halves.zip(ports) {
            workers.push(Worker::start(self.pair(half, port, count))?);
        }
        let Some((first, port)) = first.zip(self.port.take()) else {
            return Ok(());
        };
        let mut first = self.pair(first, port, count);
        if let Err(error) = self.watch(&first, control.as_ref()) {
            self.port = Some(first.port);
            return Err(error.into());
        }
        self.shared.told_queues(told);
        self.sink.connect(rx);
        first.port.set_sink(Some(self.sink.clone()));
        self.shared.tell_link(&mut *first.port);
        self.connection = Some(Connection {
            first,
            workers,
            control,
        });
        Ok(())
    }

    /// Adds what a connection is woken by; nothing stays added on failure.
    fn watch(&self, first: &Pair, control: Option<&ControlEnd>) -> std::io::Result<()> {
        first.watch(&self.poller)?;
        if let Some(control) = control
            && let Err(error) = self.poller.add(control.channel.eventfd(), Source::Control)
        {
            first.unwatch(&self.poller);
            return Err(error);
        }
        Ok(())
    }

    fn pair(&self, half: Half, port: Box<dyn NetPort>, queues: usize) -> Pair {
        Pair {
            tx: half.tx,
            rx: half.rx,
            tx_channel: half.tx_channel,
            split: half.split,
            port,
            told: half.told,
            timer: half.timer,
            wakes: Wakes::default(),
            steerer: Steerer::new(Arc::clone(&self.shared), queues),
            sink: Arc::clone(&self.sink),
            shared: Arc::clone(&self.shared),
        }
    }
}

/// A queue whose port is still to come.
struct Half {
    tx: TxQueue,
    rx: Arc<RxShared>,
    tx_channel: Arc<dyn Channel>,
    split: bool,
    told: Arc<Event>,
    timer: Timer,
}

impl Connection {
    fn serve(&mut self, ready: Ready, again: bool, shared: &Shared) -> Result<bool, RingBroken> {
        let mut failures = self.workers.iter().filter_map(Worker::take_failure);
        if let Some(failure) = failures.next() {
            return Err(failure);
        }
        let mut more = self.first.serve(ready, again)?;
        if let Some(control) = &mut self.control
            && (ready.has(Source::Control) || again)
        {
            control.channel.take();
            let pass = control.ring.process(&*shared.grants)?;
            if pass.notify {
                crate::notify(&*control.channel);
            }
            more |= pass.more;
        }
        Ok(more)
    }
}

impl Device for Vif {
    fn describe(&self) -> Keys {
        let mut options = self.shared.options;
        options.mtu = self.shared.mtu();
        negotiate::offer(&options, self.queues_max())
    }

    fn connect(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        let answer = negotiate::read(front, &self.shared.options, self.queues_max())?;
        self.shared.set_headroom(answer.headroom);
        self.shared.multicast.set_on(answer.multicast);
        let connected = self.connect_queues(&answer);
        if connected.is_err() {
            self.shared.forget();
        }
        connected.map(|()| Keys::new())
    }

    fn reconfigure(&mut self, front: &OtherEnd<'_>) -> Result<Keys, DeviceError> {
        self.shared.set_headroom(negotiate::headroom(front)?);
        Ok(Keys::new())
    }

    fn disconnect(&mut self) {
        self.give_up();
    }
}
