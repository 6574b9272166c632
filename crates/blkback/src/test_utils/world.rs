//! A store, a guest and a service domain in one process: what a disk needs around it.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use cantle_abi::DomId;
use cantle_evtchn::{EventChannels, Hub, SystemDomain};
use cantle_grant::test_utils::HeapGuest;
use cantle_grant::{GrantMapper, InProcessMapper, Tables};
use cantle_xenstore::xenbus::{DeviceId, toolstack};
use cantle_xenstore::{Client, Shared};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{BlkFront, FrontError, FrontOptions};
use crate::image::{BlockImage, Disk};
use crate::{Backend, BackendError, BackendOptions, DiskControl, Stats};

/// The guest's domain.
pub const FRONT: DomId = DomId(1);
/// The domain that serves the disk.
pub const BACK: DomId = DomId(0);
/// The guest's memory in pages where nothing else is said: a ring, 32 requests of 11 pages, and some to spare for attacks.
const GUEST_PAGES: usize = 1024;

/// Everything around one disk. The guest is memory and a grant table in this process; store, event channels and grants are
/// the real ones.
#[derive(Debug)]
pub struct World {
    store: Shared,
    tables: Arc<Tables>,
    guest: Arc<HeapGuest>,
    front: Arc<SystemDomain>,
    back: Arc<SystemDomain>,
    id: DeviceId,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A world with a guest of 4 MiB that has no disk yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_memory(GUEST_PAGES)
    }

    /// A world whose guest has so many pages of memory: for each request in flight, 11 or as many segments as it has, and one more where it
    /// is indirect; and the rings.
    ///
    /// # Panics
    ///
    /// Where two domains do not fit in an empty hub.
    #[must_use]
    pub fn with_memory(pages: usize) -> Self {
        let hub = Hub::new();
        let tables = Arc::new(Tables::new());
        Self {
            store: Shared::default(),
            guest: Arc::new(HeapGuest::new(&tables, FRONT, pages)),
            tables,
            front: hub.add_system(FRONT).expect("the hub is empty"),
            back: hub.add_system(BACK).expect("the number is free"),
            id: DeviceId::new("vbd", 51712, FRONT, BACK),
        }
    }

    /// Makes the device's directories, as a toolstack does, and a backend with this image. Earlier directories are replaced.
    ///
    /// # Errors
    ///
    /// As for [`Backend::new`].
    pub fn backend(&self, image: Box<dyn BlockImage>) -> Result<Backend, BackendError> {
        let client = self.client(BACK).map_err(BackendError::Poll)?;
        toolstack::create_device(&*client, &self.id, &[], &[])?;
        self.backend_again(image)
    }

    /// A backend for the directories as they are, as one is started after another that died.
    ///
    /// # Errors
    ///
    /// As for [`Backend::new`].
    pub fn backend_again(&self, image: Box<dyn BlockImage>) -> Result<Backend, BackendError> {
        let client = self.client(BACK).map_err(BackendError::Poll)?;
        let (channels, grants) = self.platform();
        Backend::new(client, channels, grants, image, self.id.clone())
    }

    /// As [`backend`](Self::backend), of a disk with any number of queues.
    ///
    /// # Errors
    ///
    /// As for [`Backend::with_disk`].
    pub fn backend_of(
        &self,
        disk: Arc<dyn Disk>,
        options: BackendOptions,
    ) -> Result<Backend, BackendError> {
        let client = self.client(BACK).map_err(BackendError::Poll)?;
        toolstack::create_device(&*client, &self.id, &[], &[])?;
        self.backend_of_again(disk, options)
    }

    /// As [`backend_again`](Self::backend_again), of a disk with any number of queues.
    ///
    /// # Errors
    ///
    /// As for [`Backend::with_disk`].
    pub fn backend_of_again(
        &self,
        disk: Arc<dyn Disk>,
        options: BackendOptions,
    ) -> Result<Backend, BackendError> {
        let client = self.client(BACK).map_err(BackendError::Poll)?;
        let (channels, grants) = self.platform();
        Backend::with_disk(client, channels, grants, disk, self.id.clone(), options)
    }

    /// The event channels and grants that a backend gets here.
    #[must_use]
    pub fn platform(&self) -> (Arc<dyn EventChannels>, Arc<dyn GrantMapper>) {
        let mapper = InProcessMapper::new(Arc::clone(&self.tables), BACK);
        (self.back.clone(), Arc::new(mapper))
    }

    /// A connection to the store for a domain.
    ///
    /// # Errors
    ///
    /// No descriptor is free.
    pub fn client(&self, domain: DomId) -> io::Result<Arc<dyn Client>> {
        Ok(Arc::new(self.store.client(domain)?))
    }

    /// The disk's name.
    #[must_use]
    pub fn id(&self) -> &DeviceId {
        &self.id
    }

    /// The guest.
    #[must_use]
    pub fn guest(&self) -> &Arc<HeapGuest> {
        &self.guest
    }

    /// How many of the guest's pages are mapped by somebody.
    #[must_use]
    pub fn mapped(&self) -> u64 {
        let stats = self.guest.table().stats();
        stats.maps.saturating_sub(stats.unmaps)
    }

    /// The guest's event channels.
    #[must_use]
    pub fn front_channels(&self) -> &Arc<SystemDomain> {
        &self.front
    }

    /// Runs a backend in a thread of its own.
    ///
    /// # Panics
    ///
    /// Where there is no descriptor for the stop event, or no thread.
    #[must_use]
    pub fn serve(&self, mut backend: Backend) -> Served {
        let stop = Arc::new(EventFd::new(EFD_NONBLOCK).expect("a descriptor is free"));
        let stats = backend.stats();
        let control = backend.control();
        let until = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("blkback".to_owned())
            .spawn(move || {
                let result = backend.run(&until);
                (backend, result)
            })
            .expect("a thread can be made");
        Served {
            stop,
            stats,
            control,
            thread: Some(thread),
        }
    }

    /// A front end, connected. Somebody serves the backend meanwhile.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn front(&self) -> Result<BlkFront, FrontError> {
        BlkFront::connect(self)
    }

    /// As [`front`](Self::front), of another kind.
    ///
    /// # Errors
    ///
    /// [`FrontError`].
    pub fn front_with(&self, options: FrontOptions) -> Result<BlkFront, FrontError> {
        BlkFront::connect_with(self, options)
    }
}

type Outcome = (Backend, Result<(), BackendError>);

/// A backend in its thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct Served {
    stop: Arc<EventFd>,
    stats: Arc<Stats>,
    control: DiskControl,
    thread: Option<JoinHandle<Outcome>>,
}

impl Served {
    /// The disk's counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// What may be said to the disk.
    #[must_use]
    pub fn control(&self) -> &DiskControl {
        &self.control
    }

    /// Waits until the backend has done all that xenstore and the control have told it so far. While it has something to do there it takes no
    /// requests until those in flight are over, which a test that holds requests back has to know.
    ///
    /// # Errors
    ///
    /// [`FrontError::Silence`] where the front end is not connected, or the disk does not come to rest.
    pub fn come_to_rest(&self, front: &BlkFront) -> Result<(), FrontError> {
        front.wait_event(|| self.control.resized())
    }

    /// Whether the thread has ended by itself.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the thread and gives the backend back, with how it ended.
    ///
    /// # Panics
    ///
    /// Where the backend panicked.
    pub fn stop(mut self) -> Outcome {
        self.join().expect("it was not stopped before")
    }

    fn join(&mut self) -> Option<Outcome> {
        let thread = self.thread.take()?;
        self.stop.write(1).expect("an eventfd takes one");
        Some(thread.join().expect("the backend does not panic"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.join();
        }
    }
}
