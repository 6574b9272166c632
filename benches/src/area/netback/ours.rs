//! Our side: a guest, its front end, and a back end on a thread.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cantle_netback::test_utils::{FrontOptions, Load, NetFront, Running, World};
use cantle_netport::NetPort;
use cantle_xenstore::xenbus::XenbusState;

use super::frames::Packet;
use crate::private_net::Feeder;

/// How long a back end may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connected interface. The order matters: the back end ends first.
pub(super) struct Ours {
    front: NetFront,
    _running: Running,
    _world: World,
}

impl Ours {
    /// Connects a front end to a back end on this port.
    pub(super) fn start(port: Box<dyn NetPort>) -> Result<Self> {
        let world = World::new();
        let running = World::serve(world.backend(port)?);
        let front = world.front(&FrontOptions::default());
        ensure!(
            front.wait_state(XenbusState::CONNECTED, PATIENCE),
            "the back end does not connect"
        );
        Ok(Self {
            front,
            _running: running,
            _world: world,
        })
    }

    /// A packet in the front end's pages.
    pub(super) fn load(&self, packet: &Packet) -> Load {
        Load::new(&self.front, &packet.outgoing())
    }

    /// Sends packets: how long until all are answered.
    pub(super) fn send(&mut self, load: &Load, count: u64) -> Result<Duration> {
        let begun = Instant::now();
        let refused = load.send(&mut self.front, count);
        ensure!(refused == 0, "{refused} packets are refused");
        Ok(begun.elapsed())
    }

    /// Puts a burst into the tap and takes it out of the ring: how many, and how long that took. What the pages that had been posted
    /// already took while the burst was put in is not counted.
    pub(super) fn receive(
        &mut self,
        packet: &Packet,
        flows: &[Vec<u8>],
        feeder: &Feeder,
    ) -> Result<(u64, Duration)> {
        let burst = packet.burst() as u64;
        feeder.feed(&packet.header(), flows, packet.burst())?;
        self.rest()?;
        let begun = Instant::now();
        let (before, _) = self.front.drain();
        let mut received = before;
        while received < burst {
            let (packets, _) = self.front.drain();
            received += packets;
            if packets == 0 && !self.front.wait_rx(PATIENCE) {
                let missing = burst - received;
                anyhow::bail!("{missing} of {burst} packets do not come");
            }
        }
        let took = begun.elapsed();
        ensure!(received == burst, "more packets than were put in");
        Ok((burst - before, took))
    }

    /// Waits until the back end has used the pages that were posted, and sleeps.
    fn rest(&mut self) -> Result<()> {
        // It signals when it has filled some; it is soon done with all of them.
        ensure!(self.front.wait_rx(PATIENCE), "no packet comes");
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    }
}
