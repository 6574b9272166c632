//! A port, as who uses it holds it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cantle_netport::{FrameSink, NetDevice, NetPort};

use crate::port::Port;
use crate::queue::Queue;
use crate::{Counters, PortId, PortOptions, Switch, SwitchError};

/// How many queues a port may have open.
const QUEUES_MAX: u32 = 256;

/// A port of a switch. Copies are the same port; when the last is gone, and the last queue with it, the port is removed.
#[derive(Clone)]
pub struct SwitchPort {
    handle: Arc<Handle>,
}

struct Handle {
    switch: Arc<Switch>,
    port: Arc<Port>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.switch.remove_port(self.port.id);
    }
}

impl SwitchPort {
    pub(crate) fn new(switch: Arc<Switch>, port: Arc<Port>) -> Self {
        Self {
            handle: Arc::new(Handle { switch, port }),
        }
    }

    pub(crate) fn port(&self) -> &Port {
        &self.handle.port
    }

    /// The switch it is of.
    #[must_use]
    pub fn switch(&self) -> &Arc<Switch> {
        &self.handle.switch
    }

    /// Which port it is.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.handle.port.id
    }

    /// What it has counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.handle.port.counters.read()
    }

    /// How it is to be from now on; see [`Switch::set_options`].
    ///
    /// # Errors
    ///
    /// [`SwitchError::NoPort`] once it is removed.
    pub fn set_options(&self, options: PortOptions) -> Result<(), SwitchError> {
        self.handle.switch.set_options(self.id(), options)
    }

    /// Says who receives what is sent to the port. On return no call of the one before goes on: so the caller holds no lock
    /// that the one before may wait for, and is not called by it.
    pub fn set_sink(&self, sink: Option<Arc<dyn FrameSink>>) {
        self.handle.port.set_sink(sink);
    }

    /// Says whether somebody is there. When nobody is, what was learned behind the port is forgotten.
    pub fn set_link(&self, up: bool) {
        let was = self.handle.port.link.swap(up, Ordering::Relaxed);
        if was && !up {
            self.handle.switch.table().forget(self.id(), false);
        }
    }
}

impl NetDevice for SwitchPort {
    fn queues_max(&self) -> u32 {
        QUEUES_MAX
    }

    fn open_queue(&self) -> io::Result<Box<dyn NetPort>> {
        let queues = &self.handle.port.queues;
        let more = |open| (open < QUEUES_MAX).then_some(open + 1);
        if queues
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_err()
        {
            return Err(io::Error::other("the port has all its queues open"));
        }
        Ok(Box::new(Queue::new(self.clone())))
    }

    fn mtu(&self) -> Option<u16> {
        self.handle.switch.options(self.id())?.mtu
    }
}

impl fmt::Debug for SwitchPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwitchPort")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
