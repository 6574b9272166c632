//! Writing an interface's frames to a file that tcpdump and Wireshark read.

mod file;
mod queue;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use file::{CaptureFile, CaptureOptions};
pub use queue::Direction;

use super::{Frame, FrameSink, NetDevice, NetPort, Received};
use crate::{Offloads, Part, PartMut};

/// A port whose frames are also written to a file, both ways: those that are sent before the port sees them, those that come when they are
/// there. A frame that the port then does not take is in the file all the same.
///
/// Frames are written as they cross: with offloads, a checksum may be incomplete and a packet as large as 64 KiB, as tcpdump shows them on any
/// interface that has offloads.
#[derive(Debug)]
pub struct Capture<P> {
    port: P,
    file: CaptureFile,
}

impl<P: NetPort> Capture<P> {
    /// Captures a port's frames; all queues of an interface share one file.
    #[must_use]
    pub fn new(port: P, file: CaptureFile) -> Self {
        Self { port, file }
    }
}

impl<P: NetPort> NetPort for Capture<P> {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        self.file.take_frames(Direction::Sent, batch);
        self.port.send(batch);
    }

    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        let received = self.port.receive(into)?;
        if let Received::Frame { len, .. } = received {
            let parts = into.iter().map(PartMut::as_part);
            self.file.take(Direction::Received, len, parts);
        }
        Ok(received)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd()
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.port.accept(offloads)
    }

    fn set_link(&mut self, up: bool) {
        self.port.set_link(up);
    }

    fn set_sink(&mut self, sink: Option<Arc<dyn FrameSink>>) {
        let file = &self.file;
        self.port.set_sink(sink.map(|sink| {
            let file = file.clone();
            let sink: Arc<dyn FrameSink> = Arc::new(CaptureSink { sink, file });
            sink
        }));
    }
}

/// What is in between where a port's frames are pushed.
struct CaptureSink {
    sink: Arc<dyn FrameSink>,
    file: CaptureFile,
}

impl FrameSink for CaptureSink {
    fn deliver(&self, batch: &mut [Frame<'_>]) {
        self.file.take_frames(Direction::Received, batch);
        self.sink.deliver(batch);
    }
}

impl CaptureFile {
    fn take_frames(&self, direction: Direction, batch: &[Frame<'_>]) {
        for frame in batch {
            let parts: &[Part<'_>] = frame.parts;
            self.take(direction, frame.len, parts.iter().copied());
        }
    }
}

/// A device all of whose queues are captured to one file: `--pcap file`.
#[derive(Debug)]
pub struct CaptureDevice<D> {
    device: D,
    file: CaptureFile,
}

impl<D: NetDevice> CaptureDevice<D> {
    /// Captures what goes through the queues that are opened from now on.
    #[must_use]
    pub fn new(device: D, file: CaptureFile) -> Self {
        Self { device, file }
    }
}

impl<D: NetDevice> NetDevice for CaptureDevice<D> {
    fn queues_max(&self) -> u32 {
        self.device.queues_max()
    }

    fn open_queue(&self) -> io::Result<Box<dyn NetPort>> {
        let port = self.device.open_queue()?;
        Ok(Box::new(Capture::new(port, self.file.clone())))
    }

    fn mtu(&self) -> Option<u16> {
        self.device.mtu()
    }
}

#[cfg(test)]
mod tests;
