//! Requests of a virtio block device, and loads made of them.

use std::sync::Arc;

use anyhow::{Result, ensure};
use vm_memory::{MmapRegion, VolatileMemory};

use super::virtqueue::{DESCRIPTOR, ENTRIES, NEXT, RINGS_BYTES, Virtqueue, WRITE, describe};
use crate::disk_op::Op;

/// Memory of a queue: its rings, what goes with each request, and the data.
pub(super) const QUEUE_BYTES: usize = DATA + DATA_BYTES;

/// What goes with a request: a table of descriptors, a header, and the status that the device writes.
const REQUESTS: usize = RINGS_BYTES;
const REQUEST_BYTES: usize = 128;
const HEADER: usize = 3 * DESCRIPTOR;
const HEADER_BYTES: usize = 16;
const STATUS: usize = HEADER + HEADER_BYTES;
/// The data of all requests in flight.
const DATA: usize = REQUESTS + ENTRIES as usize * REQUEST_BYTES;
const DATA_BYTES: usize = 64 << 20;

/// What the status is until the device has written it, and what it is to be then.
const NO_STATUS: u8 = 0xff;
const VIRTIO_BLK_S_OK: u8 = 0;

/// A disk's queue and its memory, a queue's worth from its rings on.
#[derive(Debug)]
pub(super) struct Queue {
    memory: Arc<MmapRegion>,
    base: usize,
    ring: Virtqueue,
}

impl Queue {
    /// Of a queue that has been started.
    pub(super) fn new(memory: Arc<MmapRegion>, ring: Virtqueue) -> Self {
        let base = ring.descriptors() - memory.as_ptr().addr();
        Self { memory, base, ring }
    }

    /// Does `count` requests of `bytes`, at the offsets that `next` gives, `depth` at a time. The first in flight has its data at
    /// [`data`](Self::data).
    ///
    /// # Errors
    ///
    /// One fails, or none is answered; the queue is then unusable.
    pub(super) fn drive(
        &mut self,
        op: Op,
        bytes: usize,
        depth: usize,
        count: u64,
        mut next: impl FnMut() -> u64,
    ) -> Result<()> {
        let apart = bytes.next_multiple_of(4096);
        ensure!(
            (1..=ENTRIES.into()).contains(&depth) && depth * apart <= DATA_BYTES,
            "no room for {depth} requests of {bytes} bytes"
        );
        // The last that came back is the next to be used: its memory is warm.
        let mut free: Vec<u16> = (0..u16::try_from(depth)?).rev().collect();
        let (mut started, mut done) = (0, 0);
        while done < count {
            while started < count
                && let Some(entry) = free.pop()
            {
                let data = self.data() + usize::from(entry) * apart;
                self.request(entry, op, next(), data, bytes)?;
                started += 1;
            }
            self.ring.publish()?;
            let mut entry = self.ring.pop()?;
            while entry.is_none() {
                self.ring.sleep()?;
                entry = self.ring.pop()?;
            }
            while let Some(finished) = entry {
                self.check(finished)?;
                free.push(finished);
                done += 1;
                entry = self.ring.pop()?;
            }
        }
        Ok(())
    }

    /// The memory that is shared with the daemon.
    pub(super) fn memory(&self) -> &MmapRegion {
        &self.memory
    }

    /// Where data is in the memory.
    pub(super) fn data(&self) -> usize {
        self.base + DATA
    }

    /// Puts a request in the ring: for `bytes` at `offset` of the disk, and at `data` of the memory.
    fn request(
        &mut self,
        entry: u16,
        op: Op,
        offset: u64,
        data: usize,
        bytes: usize,
    ) -> Result<()> {
        let (kind, direction) = match op {
            Op::Read => (0_u64, WRITE),
            Op::Write => (1, 0),
        };
        let table = self.place(entry);
        let (header, status) = (table + HEADER, table + STATUS);
        let memory = self.memory();
        // The kind, a word that is not used, and the sector.
        memory.get_ref::<u64>(header)?.store(kind.to_le());
        let sector = offset / 512;
        memory.get_ref::<u64>(header + 8)?.store(sector.to_le());
        memory.get_ref::<u8>(status)?.store(NO_STATUS);
        describe(memory, table, header, HEADER_BYTES, NEXT, 1)?;
        let second = table + DESCRIPTOR;
        describe(memory, second, data, bytes, NEXT | direction, 2)?;
        describe(memory, second + DESCRIPTOR, status, 1, WRITE, 0)?;
        self.ring.push(entry, table, 3)
    }

    fn check(&self, entry: u16) -> Result<()> {
        let status = self.place(entry) + STATUS;
        let status = self.memory().get_ref::<u8>(status)?.load();
        ensure!(
            status == VIRTIO_BLK_S_OK,
            "the daemon answered with status {status}"
        );
        Ok(())
    }

    fn place(&self, entry: u16) -> usize {
        self.base + REQUESTS + usize::from(entry % ENTRIES) * REQUEST_BYTES
    }
}
