//! The peer: `vhost_user_net` on such a tap.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::frames::Packet;
use super::side::{Side, Took};
use crate::private_net::{BareTap, Feeder};
use crate::vhost_user::Nic;

/// Sends or receives.
pub(super) struct Peer<'a> {
    nic: Nic,
    packet: &'a Packet,
    flows: Vec<Vec<u8>>,
    /// Where it receives.
    feeder: Option<Feeder>,
}

impl<'a> Peer<'a> {
    pub(super) fn start(packet: &'a Packet, receives: bool) -> Result<Self> {
        static TAPS: AtomicU32 = AtomicU32::new(0);
        let tap = format!("peer{}", TAPS.fetch_add(1, Ordering::Relaxed));
        BareTap::leave(&tap)?;
        let nic = Nic::start(&tap, &packet.header(), &packet.bytes)?;
        Ok(Self {
            nic,
            packet,
            flows: packet.flows(),
            feeder: receives.then(|| Feeder::new(&tap)).transpose()?,
        })
    }

    /// As our own side receives.
    fn receive(&mut self, feeder: &Feeder) -> Result<Took> {
        let burst = self.packet.burst();
        feeder.feed(&self.packet.header(), &self.flows, burst)?;
        let burst = burst as u64;
        std::thread::sleep(Duration::from_millis(2));
        let cpu = self.nic.cpu_time()?;
        let begun = Instant::now();
        let before = self.nic.drain()?;
        let mut received = before;
        while received < burst {
            let packets = self.nic.drain()?;
            received += packets;
            if packets == 0 {
                self.nic.wait()?;
            }
        }
        let time = begun.elapsed();
        ensure!(received == burst, "more packets than were put in");
        Ok(Took {
            packets: burst - before,
            time,
            cpu: Some(self.nic.cpu_time()? - cpu),
        })
    }
}

impl Side for Peer<'_> {
    fn some(&mut self) -> Result<Took> {
        if let Some(feeder) = self.feeder.take() {
            let took = self.receive(&feeder);
            self.feeder = Some(feeder);
            return took;
        }
        let packets = self.packet.burst() as u64;
        let cpu = self.nic.cpu_time()?;
        let begun = Instant::now();
        self.nic.send(packets)?;
        Ok(Took {
            packets,
            time: begun.elapsed(),
            cpu: Some(self.nic.cpu_time()? - cpu),
        })
    }
}
