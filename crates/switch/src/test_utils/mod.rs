//! For tests, benchmarks and fuzz targets: a sink that keeps what it gets, a clock that is turned by hand, frames to send. They panic where
//! something goes wrong that has nothing to do with what is tested.

mod fuzz;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cantle_netport::{Frame, FrameSink, NetPort, Offload, Part};

pub use fuzz::any_frames;

use crate::{Clock, MacAddr};

/// A clock that stands still until it is turned.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Turns it on by so much.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).expect("tests are short");
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// A frame's bytes and metadata, of a test's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its metadata.
    pub offload: Offload,
}

impl Owned {
    /// A frame of these addresses and tags, with a payload.
    #[must_use]
    pub fn new(destination: MacAddr, source: MacAddr, tags: &[u16], payload: &[u8]) -> Self {
        let mut bytes = [destination.0, source.0].concat();
        for tci in tags {
            bytes.extend([0x81, 0]);
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend(payload);
        let offload = Offload::default();
        Self { bytes, offload }
    }
}

/// Sends frames in one batch, their first parts of at most `first` bytes; returns which were taken.
pub fn send(port: &mut dyn NetPort, frames: &[Owned], first: usize) -> Vec<bool> {
    let parts: Vec<[Part<'_>; 2]> = frames
        .iter()
        .map(|frame| {
            let (head, rest) = frame.bytes.split_at(first.min(frame.bytes.len()));
            [Part::from(head), Part::from(rest)]
        })
        .collect();
    let mut batch: Vec<Frame<'_>> = frames
        .iter()
        .zip(&parts)
        .map(|(frame, parts)| Frame {
            parts,
            len: frame.bytes.len(),
            offload: frame.offload,
            taken: false,
        })
        .collect();
    port.send(&mut batch);
    batch.iter().map(|frame| frame.taken).collect()
}

/// A sink that keeps what it gets.
#[derive(Debug, Default)]
pub struct Collector {
    frames: Mutex<Vec<Owned>>,
    batches: AtomicU64,
}

impl Collector {
    /// Takes what came so far.
    #[must_use]
    pub fn take(&self) -> Vec<Owned> {
        std::mem::take(&mut self.frames.lock().expect("no test panics meanwhile"))
    }

    /// How often it was called.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }
}

impl FrameSink for Collector {
    fn deliver(&self, batch: &mut [Frame<'_>]) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        let mut frames = self.frames.lock().expect("no test panics meanwhile");
        for frame in batch {
            let mut bytes = vec![0; frame.len];
            let copied = Part::copy_all(frame.parts.iter().copied(), &mut bytes);
            assert_eq!(copied, frame.len, "the parts have what the frame says");
            frame.taken = true;
            frames.push(Owned {
                bytes,
                offload: frame.offload,
            });
        }
    }
}

/// A sink that takes everything and looks at nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl FrameSink for NullSink {
    fn deliver(&self, batch: &mut [Frame<'_>]) {
        for frame in batch {
            frame.taken = true;
        }
    }
}
