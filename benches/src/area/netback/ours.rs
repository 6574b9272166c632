//! Our side: a guest, its front end, and a back end on a thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use cantle_netback::BackendOptions;
use cantle_netback::test_utils::{FrontOptions, FrontQueue, Load, NetFront, World};
use cantle_netport::NetDevice;
use cantle_xenstore::xenbus::XenbusState;

use super::case::Case;
use super::frames::Packet;
use super::serving::Serving;
use super::side::{Side, Took};
use crate::private_net::Feeder;

/// How long a back end may be silent.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a queue waits for packets that may have gone to another.
const GLANCE: Duration = Duration::from_millis(5);
/// After so long a request of the control ring has been served.
const SERVED: Duration = Duration::from_millis(300);
/// Pages of a guest for each queue, and beside them.
const QUEUE_PAGES: usize = 514;
const OTHER_PAGES: usize = 8;

/// A connected interface. The back end ends before what it uses.
pub(super) struct Ours {
    serving: Serving,
    pub(super) front: NetFront,
    _world: World,
}

impl Ours {
    /// Connects a front end to a back end on this device.
    pub(super) fn start(device: Arc<dyn NetDevice>, case: Case) -> Result<Self> {
        let queues = u32::try_from(case.queues)?;
        let world = World::with_pages(case.queues * QUEUE_PAGES + OTHER_PAGES);
        let backend = world.backend_with(device, BackendOptions::default())?;
        let serving = Serving::start(backend)?;
        let mut front = world.front(&FrontOptions {
            queues,
            control: case.statics,
            ..FrontOptions::default()
        });
        ensure!(
            front.wait_state(XenbusState::CONNECTED, PATIENCE),
            "the back end does not connect"
        );
        if case.statics {
            let (queues, control) = front.parts();
            for (number, queue) in (0..).zip(queues) {
                // The back end is on its thread.
                control.lend(|| std::thread::sleep(SERVED), number, queue);
            }
        }
        Ok(Self {
            serving,
            front,
            _world: world,
        })
    }

    /// What the back end's thread has used, where that is all of it.
    pub(super) fn cpu_time(&mut self) -> Result<Option<Duration>> {
        if self.front.queues().len() > 1 {
            return Ok(None);
        }
        Ok(Some(self.serving.cpu_time()?))
    }
}

/// The time since `before`.
pub(super) fn since(before: Option<Duration>, now: Option<Duration>) -> Option<Duration> {
    Some(now?.saturating_sub(before?))
}

/// Sends by the rings: a thread for each queue.
pub(super) struct Sender {
    ours: Ours,
    loads: Vec<Load>,
    burst: u64,
}

impl Sender {
    pub(super) fn new(mut ours: Ours, packet: &Packet) -> Self {
        let queues = ours.front.queues().iter();
        Self {
            loads: queues
                .map(|queue| Load::new(queue, &packet.outgoing()))
                .collect(),
            burst: packet.burst() as u64,
            ours,
        }
    }
}

impl Side for Sender {
    fn some(&mut self) -> Result<Took> {
        let (before, burst) = (self.ours.cpu_time()?, self.burst);
        let begun = Instant::now();
        let queues = self.ours.front.queues();
        let packets = burst * queues.len() as u64;
        let refused = match (&mut *queues, &self.loads[..]) {
            ([queue], [load]) => load.send(queue, burst),
            (queues, loads) => std::thread::scope(|scope| {
                let threads: Vec<_> = queues
                    .iter_mut()
                    .zip(loads)
                    .map(|(queue, load)| scope.spawn(|| load.send(queue, burst)))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().expect("a load does not panic"))
                    .sum()
            }),
        };
        let time = begun.elapsed();
        ensure!(refused == 0, "{refused} packets are refused");
        Ok(Took {
            packets,
            time,
            cpu: since(before, self.ours.cpu_time()?),
        })
    }
}

/// Receives by the rings what is put into a tap: a thread for each queue.
pub(super) struct Receiver<'a> {
    ours: Ours,
    packet: &'a Packet,
    flows: Vec<Vec<u8>>,
    feeder: Feeder,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(ours: Ours, packet: &'a Packet, feeder: Feeder) -> Self {
        Self {
            ours,
            packet,
            flows: packet.flows(),
            feeder,
        }
    }
}

impl Side for Receiver<'_> {
    /// Puts a burst into the tap and takes it out of the rings. What the pages that had been posted already took while the burst was
    /// put in is not counted.
    fn some(&mut self) -> Result<Took> {
        let packet = self.packet;
        self.feeder
            .feed(&packet.header(), &self.flows, packet.burst())?;
        // It signals when it has filled some; it is soon done with all of them, and sleeps.
        ensure!(self.ours.front.wait_rx(PATIENCE), "no packet comes");
        std::thread::sleep(Duration::from_millis(2));
        let cpu = self.ours.cpu_time()?;
        let catch = Catch::new(packet.burst() as u64);
        match self.ours.front.queues() {
            [queue] => catch.all(queue)?,
            queues => std::thread::scope(|scope| {
                let threads: Vec<_> = queues
                    .iter_mut()
                    .map(|queue| scope.spawn(|| catch.all(queue)))
                    .collect();
                threads
                    .into_iter()
                    .try_for_each(|thread| thread.join().expect("a load does not panic"))
            })?,
        }
        let cpu = since(cpu, self.ours.cpu_time()?);
        let (packets, time) = catch.outcome()?;
        Ok(Took { packets, time, cpu })
    }
}

/// Packets that are waited for, by one thread or several.
struct Catch {
    expected: u64,
    begun: Instant,
    /// In the rings already at the beginning.
    before: AtomicU64,
    received: AtomicU64,
    ended: OnceLock<Instant>,
}

impl Catch {
    fn new(expected: u64) -> Self {
        Self {
            expected,
            begun: Instant::now(),
            before: AtomicU64::new(0),
            received: AtomicU64::new(0),
            ended: OnceLock::new(),
        }
    }

    /// Takes packets from a queue until all have come, by whatever queue.
    fn all(&self, queue: &mut FrontQueue) -> Result<()> {
        let (first, _) = queue.drain();
        // The numbers are all there is to these; the threads are joined before they are put together.
        self.before.fetch_add(first, Ordering::Relaxed);
        let mut packets = first;
        let mut seen = Instant::now();
        loop {
            let received = self.received.fetch_add(packets, Ordering::Relaxed) + packets;
            if received >= self.expected {
                self.ended.get_or_init(Instant::now);
                return Ok(());
            }
            if packets > 0 {
                seen = Instant::now();
            } else if !queue.wait_rx(GLANCE) && seen.elapsed() > PATIENCE {
                let missing = self.expected - received;
                bail!("{missing} of {} packets do not come", self.expected);
            }
            (packets, _) = queue.drain();
        }
    }

    /// How many were counted, and how long they took.
    fn outcome(&self) -> Result<(u64, Duration)> {
        let received = self.received.load(Ordering::Relaxed);
        ensure!(
            received == self.expected,
            "{received} packets, of {} that were put in",
            self.expected
        );
        let ended = self.ended.get().copied().unwrap_or(self.begun);
        let packets = received - self.before.load(Ordering::Relaxed);
        Ok((packets, ended.duration_since(self.begun)))
    }
}
