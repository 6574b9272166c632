//! A world to test in: a store, a guest on the heap, its network front end, and packets to send.
//!
//! Tests, benchmarks and fuzz targets all use these. They stand on the test utilities of the crates below, and panic where
//! something goes wrong that has nothing to do with what is tested.

mod device;
mod front;
mod load;
mod vif;

use std::sync::Arc;
use std::thread::JoinHandle;

use cantle_abi::DomId;
use cantle_evtchn::{Hub, SystemDomain};
use cantle_grant::test_utils::HeapGuest;
use cantle_grant::{GrantMapper, InProcessMapper, Tables};
use cantle_xenstore::Shared;
use cantle_xenstore::xenbus::{DeviceId, toolstack};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

pub use cantle_netport::test_utils::{Shape, checksum_of, in_netns, ip, transport_sum};
pub use device::TestDevice;
pub use front::{FrontControl, FrontOptions, FrontQueue, Incoming, NetFront, Outgoing};
pub use load::Load;
pub use vif::{
    PATIENCE, StopAtEnd, Vif, assert_nothing_mapped, eventually, outgoing, plain, step, until,
};

use crate::{Backend, BackendError, BackendOptions, Progress, Stats};
use cantle_netport::{NetDevice, NetPort};

/// The guest's number.
pub const GUEST: DomId = DomId(1);
/// The guest's memory: rings, and buffers for both, of one queue with some to spare.
const GUEST_PAGES: usize = 1024;

/// A host with one guest, which has one network interface: what a toolstack and a VMM would make.
#[derive(Debug)]
pub struct World {
    store: Shared,
    tables: Arc<Tables>,
    guest: Arc<HeapGuest>,
    back: Arc<SystemDomain>,
    front: Arc<SystemDomain>,
    id: DeviceId,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A new one; nothing runs in it.
    ///
    /// # Panics
    ///
    /// Where the process may open no more files.
    #[must_use]
    pub fn new() -> Self {
        Self::with_pages(GUEST_PAGES)
    }

    /// As [`new`](Self::new), with so much memory for the guest: 514 pages for each queue, and two for a control ring.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[must_use]
    pub fn with_pages(guest_pages: usize) -> Self {
        let hub = Hub::new();
        let tables = Arc::new(Tables::new());
        let store = Shared::default();
        let dom0 = store.client(DomId::DOM0).expect("a client");
        store.introduce(GUEST).expect("a new domain");
        let spec = toolstack::DomainSpec {
            domid: GUEST,
            name: "guest".to_owned(),
            memory_kib: 4096,
            vcpus: 1,
            store: None,
            console: None,
        };
        toolstack::create_domain(&dom0, &spec).expect("a home");
        let id = DeviceId::new("vif", 0, GUEST, DomId::DOM0);
        let keys = [("handle", "0"), ("mac", "00:16:3e:00:00:01")];
        toolstack::create_device(&dom0, &id, &keys, &keys).expect("a device");
        Self {
            guest: Arc::new(HeapGuest::new(&tables, GUEST, guest_pages)),
            back: hub.add_system(DomId::DOM0).expect("domain 0"),
            front: hub.add_system(GUEST).expect("the guest's domain"),
            store,
            tables,
            id,
        }
    }

    /// The guest.
    #[must_use]
    pub fn guest(&self) -> &Arc<HeapGuest> {
        &self.guest
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Shared {
        &self.store
    }

    /// The interface.
    #[must_use]
    pub fn id(&self) -> &DeviceId {
        &self.id
    }

    /// A back end for the interface, waiting for its front end.
    ///
    /// # Errors
    ///
    /// As [`Backend::new`].
    ///
    /// # Panics
    ///
    /// Where the process may open no more files.
    pub fn backend(&self, port: Box<dyn NetPort>) -> Result<Backend, BackendError> {
        self.backend_on(Arc::new(self.mapper()), port)
    }

    /// A back end with a mapper of its own.
    ///
    /// # Errors
    ///
    /// As [`Backend::new`].
    ///
    /// # Panics
    ///
    /// As [`backend`](Self::backend).
    pub fn backend_on(
        &self,
        mapper: Arc<dyn GrantMapper>,
        port: Box<dyn NetPort>,
    ) -> Result<Backend, BackendError> {
        let client = Arc::new(self.store.client(DomId::DOM0).expect("a client"));
        Backend::new(client, self.back.clone(), mapper, port, self.id.clone())
    }

    /// A back end on a device that may have several queues.
    ///
    /// # Errors
    ///
    /// As [`Backend::with_device`].
    ///
    /// # Panics
    ///
    /// As [`backend`](Self::backend).
    pub fn backend_with(
        &self,
        device: Arc<dyn NetDevice>,
        options: BackendOptions,
    ) -> Result<Backend, BackendError> {
        let client = Arc::new(self.store.client(DomId::DOM0).expect("a client"));
        let (channels, grants) = (self.back.clone(), Arc::new(self.mapper()));
        Backend::with_device(client, channels, grants, device, self.id.clone(), options)
    }

    /// Domain 0's way to the guest's pages.
    #[must_use]
    pub fn mapper(&self) -> InProcessMapper {
        InProcessMapper::new(self.tables.clone(), DomId::DOM0)
    }

    /// A front end that has published its keys and says it is connected. The back end has still to see it.
    ///
    /// # Panics
    ///
    /// Where the process may open no more files.
    #[must_use]
    pub fn front(&self, options: &FrontOptions) -> NetFront {
        let client = self.store.client(GUEST).expect("a client");
        NetFront::publish(self.guest.clone(), &*self.front, client, &self.id, options)
    }

    /// Lets a back end run on a thread until the result is dropped.
    ///
    /// # Panics
    ///
    /// Where the host has no more threads or descriptors.
    #[must_use]
    pub fn serve(mut backend: Backend) -> Running {
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).expect("an eventfd");
        let stats = backend.stats();
        let told = stop.try_clone().expect("an eventfd");
        let thread = std::thread::spawn(move || {
            backend.run(&told).expect("the back end runs");
            backend
        });
        Running {
            stop,
            stats,
            thread: Some(thread),
        }
    }
}

/// Calls a back end until it has nothing more to do, so that a test needs no thread and no waiting. False where the device is
/// finished.
///
/// # Panics
///
/// Where the back end fails, or does not come to rest in a hundred thousand calls.
pub fn settle(backend: &mut Backend) -> bool {
    for _ in 0..100_000 {
        match backend.process().expect("the back end works") {
            Progress::More => continue,
            Progress::Finished => return false,
            Progress::Idle => {}
        }
        let now = Timespec::default();
        let fd = backend.fd();
        let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now));
        if ready.expect("poll works") == 0 {
            return true;
        }
    }
    panic!("the back end does not come to rest");
}

/// A back end on a thread of its own; stopped when dropped.
#[derive(Debug)]
pub struct Running {
    stop: EventFd,
    stats: Arc<Stats>,
    thread: Option<JoinHandle<Backend>>,
}

impl Running {
    /// The back end's counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Stops the back end and gives it back.
    ///
    /// # Panics
    ///
    /// Where it has panicked.
    #[must_use]
    pub fn stop(mut self) -> Backend {
        self.end().expect("it runs")
    }

    fn end(&mut self) -> Option<Backend> {
        let thread = self.thread.take()?;
        self.stop.write(1).expect("an eventfd");
        Some(thread.join().expect("the back end does not panic"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}
