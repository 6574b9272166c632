//! Xenstore for one guest: its ring, served in the host's event loop, and a socket for the host's own programs.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cantle_evtchn::Channel;
use cantle_xenstore::transport::listen;
use cantle_xenstore::transport::ring::{Pumped, Ring};
use cantle_xenstore::{Service, Shared};
use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::HeapSlice;
use crate::services::add;

/// The host's end of the guest's xenstore ring.
pub(crate) struct StoreRing {
    ring: Ring<HeapSlice>,
    channel: Box<dyn Channel>,
    /// Somebody else's write left an event for this guest.
    wake: EventFd,
    broken: bool,
}

const CHANNEL: u32 = 0;
const WAKE: u32 = 1;

impl StoreRing {
    pub(crate) fn new(ring: Ring<HeapSlice>, channel: Box<dyn Channel>, wake: EventFd) -> Self {
        Self {
            ring,
            channel,
            wake,
            broken: false,
        }
    }
}

impl MutEventSubscriber for StoreRing {
    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        match events.data() {
            // Not readable any more: somebody else took the signal, which does no harm.
            WAKE => drop(self.wake.read()),
            _ => drop(self.channel.take()),
        }
        let channel = &self.channel;
        match self.ring.pump(|| {
            // A guest that closed its end looks when it opens it again.
            let _ = channel.notify();
        }) {
            Pumped::Idle => self.broken = false,
            // The rest of the work waits for its turn among the loop's other events.
            Pumped::More => drop(self.wake.write(1)),
            // It may ask for a new connection, and is served again then.
            Pumped::Broken(fault) => {
                if !core::mem::replace(&mut self.broken, true) {
                    tracing::warn!(
                        ?fault,
                        "the guest broke its xenstore ring; it is no longer served"
                    );
                }
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.channel.eventfd().as_raw_fd(), CHANNEL);
        add(ops, self.wake.as_raw_fd(), WAKE);
        // What came before there was a loop.
        drop(self.wake.write(1));
    }
}

/// The guest's store at a Unix socket. The socket's file goes with it.
pub(crate) struct StoreSocket {
    service: Service,
    path: PathBuf,
    failed: bool,
}

impl StoreSocket {
    pub(crate) fn listen(store: &Shared, path: &Path) -> io::Result<Self> {
        let listener = listen::bind(path)?;
        let path = path.to_owned();
        let mut service = Service::new(store.clone())?;
        service.listen(listener, None)?;
        Ok(Self {
            service,
            path,
            failed: false,
        })
    }
}

impl MutEventSubscriber for StoreSocket {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        if self.failed {
            return;
        }
        if let Err(error) = self.service.run_once(Some(Duration::ZERO)) {
            tracing::error!(%error, "the xenstore socket is no longer served");
            self.failed = true;
        }
        // There is no daemon here that could be updated or told where to log.
        while self.service.take_action().is_some() {}
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        add(ops, self.service.fd().as_raw_fd(), 0);
    }
}

impl Drop for StoreSocket {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}
