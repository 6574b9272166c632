//! Frames that come in by one queue's port and go to another's ring, where the front end has said which go where.

use std::sync::Arc;

use cantle_netport::port::FRAME_MAX;
use cantle_netport::{Frame, FrameSink, NetPort, Offload, Part, PartMut, Received};

use crate::control::HashReader;
use crate::shared::Shared;

const ROOM: usize = FRAME_MAX + 1;
/// Frames of one batch at most.
const FRAMES_MAX: usize = 64;
/// Batches of one call at most.
const BATCHES: usize = 4;

/// Reads a port and delivers what it gives to the queues that the front end's hash names. What its queue has no pages for waits
/// there, up to a bound; a port that is read so gives no back-pressure.
pub(crate) struct Steerer {
    shared: Arc<Shared>,
    hash: HashReader,
    several: bool,
    /// Made when it is first needed: hardly any front end does.
    arena: Vec<u8>,
    frames: Vec<(usize, usize, Offload)>,
    port_empty: bool,
}

impl Steerer {
    /// For one of `queues` queues.
    pub(crate) fn new(shared: Arc<Shared>, queues: usize) -> Self {
        Self {
            hash: shared.hash.reader(),
            shared,
            several: queues > 1,
            arena: Vec::new(),
            frames: Vec::new(),
            port_empty: false,
        }
    }

    /// Whether there is a choice, and it is the front end's.
    pub(crate) fn steers(&mut self) -> bool {
        self.several && self.hash.get().is_on()
    }

    /// Others read the port now: what was seen of it holds no longer.
    pub(crate) fn rest(&mut self) {
        self.port_empty = false;
    }

    /// Reads some hundred frames at most; true where there may be more.
    pub(crate) fn steer(
        &mut self,
        port: &mut dyn NetPort,
        sink: &dyn FrameSink,
        port_ready: bool,
    ) -> bool {
        if port.fd().is_none() {
            return false;
        }
        self.port_empty &= !port_ready;
        self.arena.resize(3 * ROOM, 0);
        for _ in 0..BATCHES {
            if self.port_empty {
                return false;
            }
            self.read(port);
            let arena = &self.arena;
            let parts = self
                .frames
                .iter()
                .map(|&(at, len, _)| [Part::from(arena.get(at..at + len).unwrap_or_default())]);
            let parts: Vec<[Part<'_>; 1]> = parts.collect();
            let frames = self.frames.iter().zip(&parts);
            let mut batch: Vec<Frame<'_>> = frames
                .map(|(&(_, len, offload), parts)| Frame {
                    parts,
                    len,
                    offload,
                    taken: false,
                })
                .collect();
            sink.deliver(&mut batch);
        }
        !self.port_empty
    }

    fn read(&mut self, port: &mut dyn NetPort) {
        self.frames.clear();
        let mut used = 0;
        while self.frames.len() < FRAMES_MAX {
            let Some(room) = self.arena.get_mut(used..used + ROOM) else {
                return;
            };
            match port.receive(&mut [PartMut::from(room)]) {
                Ok(Received::Frame { len, offload }) => {
                    self.frames.push((used, len, offload));
                    used += len;
                }
                Ok(Received::Lost) => self.shared.stats.rx.count_dropped(),
                Ok(Received::Nothing) => {
                    self.port_empty = true;
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "the port failed");
                    self.shared.stats.rx.count_error();
                    self.port_empty = true;
                    return;
                }
            }
        }
    }
}
