//! A network device of several queues, for tests: a recorder for each, read by the back end or pushed by the test.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use cantle_netport::test_utils::{Recorded, Recorder, RecorderHandle};
use cantle_netport::{Frame, FrameSink, NetDevice, NetPort, Offloads, Part, PartMut, Received};

/// Its ports are [`Recorder`]s. One that pushes has no descriptors: what comes in goes to the sink of whoever is connected, by
/// [`deliver`](Self::deliver), as a switch's does.
#[derive(Clone)]
pub struct TestDevice {
    inner: Arc<Inner>,
}

struct Inner {
    pushes: bool,
    queues_max: u32,
    /// The open ports.
    wires: Mutex<Vec<Option<RecorderHandle>>>,
    sink: RwLock<Option<Arc<dyn FrameSink>>>,
}

impl std::fmt::Debug for TestDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestDevice")
            .field("pushes", &self.inner.pushes)
            .field("wires", &*self.wires())
            .finish_non_exhaustive()
    }
}

impl TestDevice {
    fn new(pushes: bool, queues_max: u32) -> Self {
        Self {
            inner: Arc::new(Inner {
                pushes,
                queues_max,
                wires: Mutex::default(),
                sink: RwLock::default(),
            }),
        }
    }

    /// One whose ports are read.
    #[must_use]
    pub fn pulled(queues_max: u32) -> Self {
        Self::new(false, queues_max)
    }

    /// One that pushes.
    #[must_use]
    pub fn pushed(queues_max: u32) -> Self {
        Self::new(true, queues_max)
    }

    fn wires(&self) -> MutexGuard<'_, Vec<Option<RecorderHandle>>> {
        let wires = self.inner.wires.lock();
        wires.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it pushes.
    #[must_use]
    pub fn pushes(&self) -> bool {
        self.inner.pushes
    }

    /// The open ports, in the order in which they were opened.
    #[must_use]
    pub fn open(&self) -> Vec<RecorderHandle> {
        self.wires().iter().flatten().cloned().collect()
    }

    /// Takes what has been sent so far, port by port.
    #[must_use]
    pub fn take_sent(&self) -> Vec<Vec<Recorded>> {
        self.open().iter().map(RecorderHandle::take_sent).collect()
    }

    /// Brings a frame in: by the port with this number, modulo how many are open, or by pushing it. Whether it was taken; what waits in a
    /// port always is.
    ///
    /// # Panics
    ///
    /// Where no port is open.
    pub fn inject(&self, port: usize, frame: Recorded) -> bool {
        if self.inner.pushes {
            return self.deliver(&[frame]) == [true];
        }
        let open = self.open();
        open[port % open.len()].inject(frame);
        true
    }

    /// Pushes frames, each in two parts of which the first has the headers; whether each was taken. Any thread may call it.
    #[must_use]
    pub fn deliver(&self, frames: &[Recorded]) -> Vec<bool> {
        // Held meanwhile: who takes the sink away waits for it.
        let sink = self.inner.sink.read();
        let sink = sink.unwrap_or_else(PoisonError::into_inner);
        let Some(sink) = &*sink else {
            return vec![false; frames.len()];
        };
        let parts: Vec<[Part<'_>; 2]> = frames
            .iter()
            .map(|frame| {
                let (headers, rest) = frame.bytes.split_at(frame.bytes.len().min(512));
                [Part::from(headers), Part::from(rest)]
            })
            .collect();
        let batch = frames.iter().zip(&parts);
        let mut batch: Vec<Frame<'_>> = batch
            .map(|(frame, parts)| Frame {
                parts,
                len: frame.bytes.len(),
                offload: frame.offload,
                taken: false,
            })
            .collect();
        sink.deliver(&mut batch);
        batch.iter().map(|frame| frame.taken).collect()
    }
}

impl NetDevice for TestDevice {
    fn queues_max(&self) -> u32 {
        self.inner.queues_max
    }

    fn open_queue(&self) -> io::Result<Box<dyn NetPort>> {
        let (inner, handle) = Recorder::new()?;
        let mut wires = self.wires();
        let free = wires.iter().position(Option::is_none);
        let number = free.unwrap_or(wires.len());
        if free.is_none() {
            wires.push(None);
        }
        wires[number] = Some(handle);
        drop(wires);
        Ok(Box::new(TestPort {
            device: self.clone(),
            number,
            inner,
        }))
    }
}

struct TestPort {
    device: TestDevice,
    number: usize,
    inner: Recorder,
}

impl NetPort for TestPort {
    fn send(&mut self, batch: &mut [Frame<'_>]) {
        self.inner.send(batch);
    }

    fn receive(&mut self, into: &mut [PartMut<'_>]) -> io::Result<Received> {
        assert!(!self.device.inner.pushes, "it is never read");
        self.inner.receive(into)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd().filter(|_| !self.device.inner.pushes)
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.inner.accept(offloads)
    }

    fn set_link(&mut self, up: bool) {
        self.inner.set_link(up);
    }

    fn set_sink(&mut self, sink: Option<Arc<dyn FrameSink>>) {
        let own = self.device.inner.sink.write();
        *own.unwrap_or_else(PoisonError::into_inner) = sink;
    }
}

impl Drop for TestPort {
    fn drop(&mut self) {
        self.device.wires()[self.number] = None;
    }
}
