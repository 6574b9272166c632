//! Where packets leave and come in: the far side of a network interface.

mod capture;
mod interface;
mod null;
mod packet;
mod passt;
mod pieces;
#[cfg(feature = "test-utils")]
mod recorder;
mod stream;
mod tap;
mod vectored;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use capture::{Capture, CaptureDevice, CaptureFile, CaptureOptions, Direction};
pub use interface::{Interface, InterfaceError};
pub use null::NullPort;
pub use packet::{PacketDevice, PacketError, PacketPort};
pub use passt::{PasstDevice, PasstError, PasstOptions, PasstPort};
#[cfg(feature = "test-utils")]
pub use recorder::{Recorded, Recorder, RecorderHandle};
pub use stream::StreamPort;
pub use tap::{Tap, TapDevice, TapError};

use crate::{Offload, Offloads, Part, PartMut};

/// The largest frame that a port may give: 64 KiB of segmentation, with an Ethernet header and two VLAN tags.
pub const FRAME_MAX: usize = 65_536 + 14 + 8;

/// What a back end is connected to: a tap, a switch's port, a recorder. It takes and gives Ethernet frames with their
/// offload metadata, and never blocks.
pub trait NetPort: Send {
    /// Takes a batch of frames, in order, and notes in each what became of it. The memory is free again on return.
    ///
    /// A frame that cannot be taken now is lost, as on a wire: nothing is kept back.
    fn send(&mut self, batch: &mut [Frame<'_>]);

    /// Gives the next frame, scattered over `into` in order; its metadata must be within what [`accept`](Self::accept) allowed.
    ///
    /// One at a time, since a frame's length decides which of the guest's pages the next one goes to. The caller batches
    /// what follows (grant copies, responses, the notification).
    ///
    /// # Errors
    ///
    /// The port is broken: the caller goes on, and counts it.
    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received>;

    /// Readable when a frame may be waiting. A back end watches it for changes (edges), and reads until
    /// [`Received::Nothing`]. `None` for a port that is never read: it gives what it has to its [sink](Self::set_sink).
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Says what the receiver of this port's frames can do; a port starts with [`Offloads::NONE`].
    ///
    /// # Errors
    ///
    /// The port cannot do without some of what was left out.
    fn accept(&mut self, offloads: Offloads) -> io::Result<()>;

    /// Says whether somebody is there to receive (a link light). A port without one does nothing.
    fn set_link(&mut self, _up: bool) {}

    /// Says where frames are to go that the port has of its own accord, or that there is nobody any more: then no call of the old sink goes
    /// on when this returns. A port that is read ignores it.
    fn set_sink(&mut self, _sink: Option<Arc<dyn FrameSink>>) {}
}

/// Who takes frames whenever they come: the guest's side of an interface, for a switch. Any thread may call it.
pub trait FrameSink: Send + Sync {
    /// Takes a batch of frames, in order, and notes in each what became of it. The memory is free again on return.
    ///
    /// It never blocks for longer than copying takes. What cannot be taken now, nor be kept within a bound, is lost.
    fn deliver(&self, batch: &mut [Frame<'_>]);
}

/// What an interface is connected to as a whole: it opens a port for each queue.
pub trait NetDevice: Send + Sync {
    /// How many ports may be open at once; at least 1.
    fn queues_max(&self) -> u32;

    /// Opens one more. Which of the open ports gives a frame that comes in is the device's business; one flow's frames come by
    /// one port. Dropping a port closes it.
    ///
    /// # Errors
    ///
    /// The device is gone, or has no more.
    fn open_queue(&self) -> io::Result<Box<dyn NetPort>>;

    /// The largest IP packet that the device carries, in bytes, where it has a limit of its own.
    fn mtu(&self) -> Option<u16> {
        None
    }
}

/// A frame on its way to a port.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Where it lies, in order. The first part holds at least the headers up to the transport payload (or the whole frame,
    /// or its first [`HEADERS_MAX`](crate::headers::HEADERS_MAX) bytes) and can no longer change; the others may be granted pages.
    pub parts: &'a [Part<'a>],
    /// How many bytes in all.
    pub len: usize,
    /// Its metadata.
    pub offload: Offload,
    /// Out: whether the port took it.
    pub taken: bool,
}

/// What [`NetPort::receive`] came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A frame of that many bytes.
    Frame {
        /// Its length in bytes.
        len: usize,
        /// Its metadata.
        offload: Offload,
    },
    /// A frame came that could not be given (too long, or of a kind unknown): it is lost. There may be more.
    Lost,
    /// No frame waits.
    Nothing,
}

impl<P: NetPort + ?Sized> NetPort for Box<P> {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        (**self).send(batch);
    }
    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        (**self).receive(into)
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).fd()
    }
    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        (**self).accept(offloads)
    }
    fn set_link(&mut self, up: bool) {
        (**self).set_link(up);
    }
    fn set_sink(&mut self, sink: Option<Arc<dyn FrameSink>>) {
        (**self).set_sink(sink);
    }
}

impl<D: NetDevice + ?Sized> NetDevice for Box<D> {
    fn queues_max(&self) -> u32 {
        (**self).queues_max()
    }
    fn open_queue(&self) -> io::Result<Box<dyn NetPort>> {
        (**self).open_queue()
    }
    fn mtu(&self) -> Option<u16> {
        (**self).mtu()
    }
}
