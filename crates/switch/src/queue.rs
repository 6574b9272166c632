//! One sender's end of a port.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cantle_netport::{Frame, FrameSink, NetPort, Offloads, PartMut, Received};

use crate::DropReason;
use crate::device::SwitchPort;
use crate::forward::{CHUNK, Decision, Dispatch, Scratch, Sender};
use crate::table::Cache;
use crate::topology::Topology;

/// A queue of a port: what one thread of a back end sends by.
#[derive(Debug)]
pub(crate) struct Queue {
    port: SwitchPort,
    /// Of generation 0, without ports, until the first batch.
    topology: Arc<Topology>,
    cache: Cache,
    scratch: Scratch,
}

impl Queue {
    pub(crate) fn new(port: SwitchPort) -> Self {
        Self {
            port,
            topology: Arc::default(),
            cache: Cache::default(),
            scratch: Scratch::default(),
        }
    }
}

impl NetPort for Queue {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        let Self {
            port,
            topology,
            cache,
            scratch,
        } = self;
        let switch = port.switch();
        if switch.generation() != topology.generation {
            *topology = switch.topology();
        }
        let counters = &port.port().counters;
        counters.rx_packets.add(batch.len() as u64);
        counters.rx_bytes.add(
            batch
                .iter()
                .fold(0, |sum, frame| sum.wrapping_add(frame.len as u64)),
        );
        let Some(from) = topology.get(port.id()) else {
            counters.drop(DropReason::NotForwarding, batch.len() as u64);
            batch.iter_mut().for_each(|frame| frame.taken = false);
            return;
        };
        let mut sender = Sender {
            topology,
            from,
            table: switch.table(),
            cache,
            forward_link_local: switch.forward_link_local(),
            now: switch.now(),
        };
        let mut dispatch = Dispatch {
            topology,
            from,
            scratch,
        };
        for frames in batch.chunks_mut(CHUNK) {
            if !from.copies_received.is_empty() {
                dispatch.copies(&from.copies_received, frames);
            }
            let mut decisions = [Decision::DROPPED; CHUNK];
            for (decision, frame) in decisions.iter_mut().zip(frames.iter_mut()) {
                frame.taken = false;
                *decision = sender.decide(frame);
            }
            dispatch.run(decisions.get(..frames.len()).unwrap_or_default(), frames);
        }
    }

    fn receive(&mut self, _into: &mut [PartMut<'_>]) -> io::Result<Received> {
        Ok(Received::Nothing)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn accept(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn set_link(&mut self, up: bool) {
        self.port.set_link(up);
    }

    fn set_sink(&mut self, sink: Option<Arc<dyn FrameSink>>) {
        self.port.port().set_sink(sink);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.port.port().queues.fetch_sub(1, Ordering::Relaxed);
    }
}
