//! A queue: its two rings, its event channels and its port, served by one thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use cantle_abi::ring::RingBroken;
use cantle_evtchn::Channel;
use cantle_netport::{FrameSink, NetPort};

use crate::event::{Event, Timer};
use crate::pass::Pass;
use crate::poller::{Poller, Ready, Source};
use crate::rx::RxShared;
use crate::shared::Shared;
use crate::sink::Sink;
use crate::steer::Steerer;
use crate::tx::TxQueue;

/// When each direction wants to be served again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wakes {
    tx: Option<Instant>,
    rx: Option<Instant>,
}

/// One of a connected front end's queues.
pub(crate) struct Pair {
    pub(crate) tx: TxQueue,
    pub(crate) rx: Arc<RxShared>,
    pub(crate) tx_channel: Arc<dyn Channel>,
    /// Whether the rx ring has a channel of its own.
    pub(crate) split: bool,
    pub(crate) port: Box<dyn NetPort>,
    pub(crate) told: Arc<Event>,
    pub(crate) timer: Timer,
    /// What each direction waits for: one that is not served now goes on waiting.
    pub(crate) wakes: Wakes,
    pub(crate) steerer: Steerer,
    pub(crate) sink: Arc<Sink>,
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("tx", &self.tx)
            .field("rx", &self.rx)
            .finish_non_exhaustive()
    }
}

impl Pair {
    /// Serves the rings, also without a signal where work was left over (`again`); true where work is left over now.
    pub(crate) fn serve(&mut self, ready: Ready, again: bool) -> Result<bool, RingBroken> {
        let now = Instant::now();
        let timer = ready.has(Source::Timer);
        if timer {
            self.timer.take();
        }
        let tx_ready = ready.has(Source::Tx);
        if tx_ready {
            self.tx_channel.take();
        }
        if ready.has(Source::Rx) {
            self.rx.channel().take();
        }
        let told = ready.has(Source::Told);
        if told {
            self.told.take();
        }
        let mut pass = Pass::default();
        if tx_ready || again || timer || told {
            let sent = self.tx.process(&mut *self.port, now)?;
            if sent.notify {
                crate::notify(&*self.tx_channel);
            }
            self.wakes.tx = sent.wake;
            pass = pass.and(sent);
        }
        if ready.has(Source::Port) {
            self.rx.port_ready();
        }
        // With one channel for both rings it may stand for pages posted.
        let rx_ready = ready.has(Source::Rx) || ready.has(Source::Port);
        if rx_ready || again || timer || told || (tx_ready && !self.split) {
            let received = self.receive(ready.has(Source::Port), now)?;
            self.wakes.rx = received.wake;
            pass = pass.and(received);
        }
        self.arm(now);
        Ok(pass.more)
    }

    fn receive(&mut self, port_ready: bool, now: Instant) -> Result<Pass, RingBroken> {
        // Where the front end says which packets go to which queue, those that come in here may be others'.
        if self.steerer.steers() {
            let sink: &dyn FrameSink = &*self.sink;
            let more = self.steerer.steer(&mut *self.port, sink, port_ready);
            let mut pass = self.rx.process_delivered(&mut *self.port, now)?;
            pass.more |= more;
            return Ok(pass);
        }
        self.steerer.rest();
        self.rx.process(&mut *self.port, now)
    }

    /// A time that cannot be waited for is as good as now: work goes on with the next event.
    fn arm(&mut self, now: Instant) {
        let when = [self.wakes.tx, self.wakes.rx].into_iter().flatten().min();
        if when.is_none() && !self.timer.is_set() {
            return;
        }
        if let Err(error) = self.timer.set(when, now) {
            tracing::error!(%error, "a timer cannot be set");
        }
    }

    fn sources(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Source)> {
        let rx = self.split.then(|| self.rx.channel().eventfd());
        [
            Some((self.tx_channel.eventfd(), Source::Tx)),
            rx.map(|rx| (rx, Source::Rx)),
            self.port.fd().map(|fd| (fd, Source::Port)),
            Some((self.told.as_fd(), Source::Told)),
            Some((self.timer.as_fd(), Source::Timer)),
        ]
        .into_iter()
        .flatten()
    }

    /// Lets a poller watch what the queue is woken by; nothing stays added on failure.
    pub(crate) fn watch(&self, poller: &Poller) -> io::Result<()> {
        let added = self
            .sources()
            .try_for_each(|(fd, source)| poller.add(fd, source));
        if added.is_err() {
            self.unwatch(poller);
        }
        added
    }

    pub(crate) fn unwatch(&self, poller: &Poller) {
        self.sources().for_each(|(fd, _)| poller.remove(fd));
    }
}
