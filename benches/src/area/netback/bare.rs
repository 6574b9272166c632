//! The limit: a tap without anything before it.

use std::time::Instant;

use anyhow::{Result, ensure};
use cantle_abi::PAGE_SIZE;

use super::frames::Packet;
use super::side::{Side, Took, alone};
use crate::private_net::{BareTap, Feeder};

/// As many bytes as the front end's pages for each direction.
const FOOTPRINT: usize = 1 << 20;

/// Writes into a tap, in a loop; a thread for each of its queues.
pub(super) struct Writer<'a> {
    taps: Vec<BareTap>,
    packet: &'a Packet,
    /// The frame as often as the front end's pages hold it.
    copies: Vec<Vec<u8>>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(name: &str, queues: usize, packet: &'a Packet) -> Result<Self> {
        let each = packet.pages() * PAGE_SIZE;
        let copy = || {
            let mut bytes = Vec::with_capacity(each);
            bytes.extend_from_slice(&packet.bytes);
            bytes
        };
        Ok(Self {
            taps: BareTap::create(name, queues)?,
            packet,
            copies: (0..FOOTPRINT / each).map(|_| copy()).collect(),
        })
    }
}

impl Side for Writer<'_> {
    fn some(&mut self) -> Result<Took> {
        let (header, count) = (self.packet.header(), self.packet.burst());
        let write = |tap: &BareTap| {
            for frame in self.copies.iter().cycle().take(count) {
                tap.write(&header, frame)?;
            }
            Ok(count as u64)
        };
        on_all(&self.taps, write)
    }
}

/// Reads what was put into a tap, in a loop; a thread for each of its queues.
pub(super) struct Reader<'a> {
    taps: Vec<BareTap>,
    feeder: Feeder,
    packet: &'a Packet,
    flows: Vec<Vec<u8>>,
    buffers: Vec<Vec<u8>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(name: &str, queues: usize, packet: &'a Packet) -> Result<Self> {
        Ok(Self {
            taps: BareTap::create(name, queues)?,
            feeder: Feeder::new(name)?,
            packet,
            flows: packet.flows(),
            buffers: vec![vec![0; FOOTPRINT]; queues],
        })
    }
}

impl Side for Reader<'_> {
    fn some(&mut self) -> Result<Took> {
        let (packet, burst) = (self.packet, self.packet.burst());
        self.feeder.feed(&packet.header(), &self.flows, burst)?;
        let took = on_all(self.taps.iter().zip(&mut self.buffers), |(tap, buffer)| {
            drain(tap, packet, buffer)
        })?;
        let missing = (burst as u64).saturating_sub(took.packets);
        ensure!(missing == 0, "{missing} of {burst} frames are missing");
        Ok(took)
    }
}

/// Reads what waits, into pieces of memory that take turns.
fn drain(tap: &BareTap, packet: &Packet, buffer: &mut [u8]) -> Result<u64> {
    let mut read = 0;
    loop {
        for into in buffer.chunks_exact_mut(packet.pages() * PAGE_SIZE) {
            let Some(len) = tap.read(into)? else {
                return Ok(read);
            };
            ensure!(len == packet.bytes.len(), "a frame of {len} bytes");
            read += 1;
        }
    }
}

/// Does something with each queue, at once; what it did is counted.
fn on_all<T: Send>(
    queues: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> Result<u64> + Sync,
) -> Result<Took> {
    let mut queues: Vec<T> = queues.into_iter().collect();
    if queues.len() == 1
        && let Some(only) = queues.pop()
    {
        // On a thread of its own as well: who has put frames in has them in its core's cache.
        return std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let mut packets = 0;
                let took = alone(0, || {
                    let begun = Instant::now();
                    packets = work(only)?;
                    Ok(begun.elapsed())
                })?;
                Ok(Took { packets, ..took })
            });
            thread.join().expect("a load does not panic")
        });
    }
    let begun = Instant::now();
    let packets = std::thread::scope(|scope| {
        let threads: Vec<_> = queues
            .into_iter()
            .map(|queue| {
                let work = &work;
                scope.spawn(move || work(queue))
            })
            .collect();
        threads.into_iter().try_fold(0, |sum, thread| {
            let did = thread.join().expect("a load does not panic")?;
            Ok::<_, anyhow::Error>(sum + did)
        })
    })?;
    Ok(Took {
        packets,
        time: begun.elapsed(),
        cpu: None,
    })
}
