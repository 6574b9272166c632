//! The guest's side of an interface, for whoever has frames for it.

use std::sync::{Arc, PoisonError, RwLock};

use cantle_netport::headers::HEADERS_MAX;
use cantle_netport::{Frame, FrameSink};

use crate::control::HashConfig;
use crate::rx::{RxShared, first_bytes};
use crate::shared::Shared;

/// Spreads frames over the queues of a connected front end: by the hash that it has asked for, or by one of ours.
#[derive(Debug)]
pub(crate) struct Sink {
    shared: Arc<Shared>,
    /// None while nobody is connected.
    queues: RwLock<Vec<Arc<RxShared>>>,
    /// How packets are spread where the front end has not said it.
    own: HashConfig,
}

impl Sink {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            queues: RwLock::default(),
            own: HashConfig::spreading(),
        }
    }

    /// Frames go to these from now on. No delivery to others goes on when this returns.
    pub(crate) fn connect(&self, queues: Vec<Arc<RxShared>>) {
        *self.queues.write().unwrap_or_else(PoisonError::into_inner) = queues;
    }

    /// One of `count` queues, for what the front end has said by `hash` or, where it has not, by a hash of ours.
    fn queue_of(&self, hash: &HashConfig, frame: &Frame<'_>, count: usize) -> usize {
        let mut headers = [0; HEADERS_MAX];
        let headers = first_bytes(frame.parts, &mut headers);
        if hash.is_on() {
            return hash.queue(hash.hash(headers));
        }
        let value = self.own.hash(headers).map_or(0, |hash| hash.value);
        usize::try_from(value).unwrap_or(0) % count
    }
}

impl FrameSink for Sink {
    fn deliver(&self, batch: &mut [Frame<'_>]) {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        match queues.as_slice() {
            [] => batch.iter_mut().for_each(|frame| frame.taken = false),
            [only] => only.deliver(batch),
            several => {
                // Runs for the same queue go together.
                let hash = self.shared.hash.load();
                let mut rest = batch;
                while let Some(first) = rest.first() {
                    let queue = self.queue_of(&hash, first, several.len());
                    let others = rest.iter().skip(1);
                    let run = 1 + others
                        .take_while(|frame| self.queue_of(&hash, frame, several.len()) == queue)
                        .count();
                    let (now, after) = rest.split_at_mut(run);
                    rest = after;
                    match several.get(queue) {
                        Some(queue) => queue.deliver(now),
                        None => now.iter_mut().for_each(|frame| frame.taken = false),
                    }
                }
            }
        }
    }
}
