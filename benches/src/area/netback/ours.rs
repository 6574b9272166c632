//! Our side: a guest, its front end, and a back end on a thread.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use cantle_netback::test_utils::{FrontOptions, Load, NetFront, World};
use cantle_netport::NetPort;
use cantle_xenstore::xenbus::XenbusState;

use super::frames::Packet;
use super::serving::Serving;
use super::side::{Side, Took};
use crate::private_net::Feeder;

/// How long a back end may be silent.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A connected interface. The order matters: the back end ends before what it uses.
pub(super) struct Ours {
    serving: Serving,
    pub(super) front: NetFront,
    _world: World,
}

impl Ours {
    /// Connects a front end to a back end on this port.
    pub(super) fn start(port: Box<dyn NetPort>) -> Result<Self> {
        let world = World::new();
        let serving = Serving::start(world.backend(port)?)?;
        let front = world.front(&FrontOptions::default());
        ensure!(
            front.wait_state(XenbusState::CONNECTED, PATIENCE),
            "the back end does not connect"
        );
        Ok(Self {
            front,
            serving,
            _world: world,
        })
    }

    /// What the back end's thread has used.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        self.serving.cpu_time()
    }

    /// A packet in the front end's pages.
    pub(super) fn load(&self, packet: &Packet) -> Load {
        Load::new(&self.front, &packet.outgoing())
    }
}

/// Sends by the ring.
pub(super) struct Sender {
    ours: Ours,
    load: Load,
    burst: u64,
}

impl Sender {
    pub(super) fn new(ours: Ours, packet: &Packet) -> Self {
        Self {
            load: ours.load(packet),
            burst: packet.burst() as u64,
            ours,
        }
    }
}

impl Side for Sender {
    fn some(&mut self) -> Result<Took> {
        let before = self.ours.cpu_time()?;
        let begun = Instant::now();
        let refused = self.load.send(&mut self.ours.front, self.burst);
        let time = begun.elapsed();
        ensure!(refused == 0, "{refused} packets are refused");
        Ok(Took {
            packets: self.burst,
            time,
            cpu: Some(self.ours.cpu_time()? - before),
        })
    }
}

/// Receives by the ring what is put into a tap.
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
    /// Puts a burst into the tap and takes it out of the ring. What the pages that had been posted already took while the burst was
    /// put in is not counted.
    fn some(&mut self) -> Result<Took> {
        let (packet, front) = (self.packet, &mut self.ours.front);
        self.feeder
            .feed(&packet.header(), &self.flows, packet.burst())?;
        // It signals when it has filled some; it is soon done with all of them, and sleeps.
        ensure!(front.wait_rx(PATIENCE), "no packet comes");
        std::thread::sleep(Duration::from_millis(2));
        let burst = packet.burst() as u64;
        let cpu = self.ours.serving.cpu_time()?;
        let begun = Instant::now();
        let (before, _) = front.drain();
        let mut received = before;
        while received < burst {
            let (packets, _) = front.drain();
            received += packets;
            if packets == 0 && !front.wait_rx(PATIENCE) {
                bail!("{} of {burst} packets do not come", burst - received);
            }
        }
        let time = begun.elapsed();
        ensure!(received == burst, "more packets than were put in");
        Ok(Took {
            packets: burst - before,
            time,
            cpu: Some(self.ours.cpu_time()? - cpu),
        })
    }
}
