//! A port that is read, such as a tap, as a port of the switch.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cantle_netport::port::FRAME_MAX;
use cantle_netport::{
    Frame, FrameSink, NetDevice, NetPort, Offload, Offloads, Part, PartMut, Received, recycle,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::device::SwitchPort;
use crate::forward::CHUNK;
use crate::{PortOptions, Switch, SwitchError};

/// Where frames are received to: small ones many at a time, the largest a few.
const ARENA_LEN: usize = 4 * FRAME_MAX;
/// How long a port that fails is left alone.
const PATIENCE: Duration = Duration::from_millis(10);

/// Why a port cannot be an uplink.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UplinkError {
    /// The switch does not take it.
    #[error("the switch takes no port")]
    Switch(#[from] SwitchError),
    /// It has no descriptor, so it is not one that is read.
    #[error("the port has no descriptor to wait for")]
    NoDescriptor,
    /// The port or the system refuses something.
    #[error("cannot {what}")]
    Io {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A port that is read by a thread of its own, which gives the frames to the switch. Dropping it ends the thread, and removes the port
/// from the switch; who drops it holds no lock that a sink may wait for.
#[derive(Debug)]
pub struct Uplink {
    port: SwitchPort,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Uplink {
    /// The switch's side of it: options, counters.
    #[must_use]
    pub fn port(&self) -> &SwitchPort {
        &self.port
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        // It can fail only where the counter is full, and is readable then.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.port.set_sink(None);
        self.port.switch().remove_port(self.port.id());
    }
}

/// The far port, which both directions use. Its lock is never held while the switch has the frames.
struct Far(Mutex<Box<dyn NetPort>>);

impl Far {
    fn lock(&self) -> MutexGuard<'_, Box<dyn NetPort>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A descriptor to wait for, that stays valid while the port is used.
    fn fd(&self) -> io::Result<Option<OwnedFd>> {
        self.lock()
            .fd()
            .map(|fd| fd.try_clone_to_owned())
            .transpose()
    }
}

impl FrameSink for Far {
    fn deliver(&self, batch: &mut [Frame<'_>]) {
        self.lock().send(batch);
    }
}

impl Switch {
    /// Adds a port that is read: a tap, a packet socket, a program's socket. It is told that all offloads are welcome.
    ///
    /// # Errors
    ///
    /// [`UplinkError`].
    pub fn add_uplink(
        self: &Arc<Self>,
        mut far: Box<dyn NetPort>,
        options: PortOptions,
    ) -> Result<Uplink, UplinkError> {
        let io = |what| move |source| UplinkError::Io { what, source };
        let all = Offloads {
            checksum: true,
            tso_v4: true,
            tso_v6: true,
        };
        far.accept(all).map_err(io("set the port's offloads"))?;
        far.set_link(true);
        let far = Arc::new(Far(Mutex::new(far)));
        let fd = far.fd().map_err(io("copy the port's descriptor"))?;
        let fd = fd.ok_or(UplinkError::NoDescriptor)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let stop =
            Arc::new(eventfd(0, flags).map_err(|error| io("make a descriptor")(error.into()))?);
        let port = self.add_port(options)?;
        let queue = port.open_queue().map_err(io("open a queue"))?;
        port.set_sink(Some(far.clone()));
        port.set_link(true);
        let reader = Reader {
            far,
            fd,
            queue,
            port: port.clone(),
            stop: stop.clone(),
            arena: vec![0; ARENA_LEN],
            filled: Vec::with_capacity(CHUNK),
        };
        let thread = std::thread::Builder::new().name("switch-uplink".to_owned());
        let thread = thread
            .spawn(move || reader.run())
            .map_err(io("start a thread"))?;
        Ok(Uplink {
            port,
            stop,
            thread: Some(thread),
        })
    }
}

/// The thread's.
struct Reader {
    far: Arc<Far>,
    fd: OwnedFd,
    queue: Box<dyn NetPort>,
    port: SwitchPort,
    stop: Arc<OwnedFd>,
    arena: Vec<u8>,
    /// Where in the arena each frame is, and its metadata.
    filled: Vec<(usize, usize, Offload)>,
}

impl Reader {
    fn run(mut self) {
        let mut parts: Vec<Part<'static>> = Vec::new();
        let mut frames: Vec<Frame<'static>> = Vec::new();
        let mut idle = 0_u64;
        loop {
            if readable(&[self.fd.as_fd(), self.stop.as_fd()], None)
                .get(1)
                .is_none_or(|stop| *stop)
            {
                return;
            }
            idle = if self.fill() { 0 } else { idle + 1 };
            // Once may be by chance: the last frame was taken just before.
            if idle > 1 && self.rest() {
                return;
            }
            let mut now_parts: Vec<Part<'_>> = recycle(parts);
            let bytes = |at: usize, len: usize| self.arena.get(at..at + len).unwrap_or_default();
            now_parts.extend(
                self.filled
                    .iter()
                    .map(|(at, len, _)| Part::from(bytes(*at, *len))),
            );
            let mut now_frames: Vec<Frame<'_>> = recycle(frames);
            now_frames.extend(
                now_parts
                    .iter()
                    .zip(&self.filled)
                    .map(|(part, (_, _, offload))| Frame {
                        parts: std::slice::from_ref(part),
                        len: part.len(),
                        offload: *offload,
                        taken: false,
                    }),
            );
            self.queue.send(&mut now_frames);
            frames = recycle(now_frames);
            parts = recycle(now_parts);
        }
    }

    /// Receives as many frames as wait and have room; false where there was none, though there should be.
    fn fill(&mut self) -> bool {
        self.filled.clear();
        let mut at = 0;
        let mut any = false;
        let mut far = self.far.lock();
        for _ in 0..CHUNK {
            let Some(room) = self.arena.get_mut(at..at + FRAME_MAX) else {
                break;
            };
            match far.receive(&mut [PartMut::from(room)]) {
                Ok(Received::Frame { len, offload }) => {
                    self.filled.push((at, len.min(FRAME_MAX), offload));
                    // Each starts on a cache line of its own.
                    at += len.min(FRAME_MAX).next_multiple_of(64);
                }
                Ok(Received::Lost) => self.port.port().counters.errors.add(1),
                Ok(Received::Nothing) => break,
                Err(error) => {
                    tracing::debug!(%error, port = %self.port.id(), "an uplink fails to receive");
                    self.port.port().counters.errors.add(1);
                    any = false;
                    break;
                }
            }
            any = true;
        }
        any
    }

    /// Leaves a port alone that says it has something and has not; true where the thread is to end.
    fn rest(&mut self) -> bool {
        // It may have got another descriptor.
        if let Ok(Some(fd)) = self.far.fd() {
            self.fd = fd;
        }
        let stop = readable(&[self.stop.as_fd()], Some(PATIENCE));
        stop.first().is_none_or(|stop| *stop)
    }
}

/// Waits, and says which of the descriptors have something to say, be it an error.
fn readable(fds: &[BorrowedFd<'_>], patience: Option<Duration>) -> Vec<bool> {
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    // Interrupted, or out of memory: nothing is readable, and the caller comes again.
    let _ = poll(&mut polled, patience.as_ref());
    polled.iter().map(|fd| !fd.revents().is_empty()).collect()
}
