//! A connected interface, and waiting for what it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cantle_netport::Offload;
use cantle_netport::test_utils::Recorded;
use cantle_xenstore::xenbus::XenbusState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{FrontOptions, NetFront, Outgoing, TestDevice, World, settle};
use crate::{Backend, BackendOptions};

/// Longer than anything takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A front end and a back end that are connected, and what is around them.
#[derive(Debug)]
pub struct Vif {
    /// Where they are.
    pub world: World,
    /// What the back end's ports are opened of.
    pub device: TestDevice,
    /// The back end. Its first queue is served by whoever calls it.
    pub backend: Backend,
    /// The front end.
    pub front: NetFront,
}

impl Vif {
    /// Connects an interface in a world of its own.
    ///
    /// # Panics
    ///
    /// Where they do not come together.
    #[must_use]
    pub fn connect(device: TestDevice, options: BackendOptions, front: &FrontOptions) -> Self {
        let pages = 2 * usize::from(front.buffers) + 2;
        let queues = usize::try_from(front.queues).expect("a few");
        // Enough for two front ends, one after the other.
        let world = World::with_pages(2 * (pages * queues + 8));
        let backend = world.backend_with(Arc::new(device.clone()), options);
        let mut backend = backend.expect("the directories are there");
        let front = world.front(front);
        assert!(settle(&mut backend), "it is not finished");
        assert_eq!(front.backend_state(), XenbusState::CONNECTED);
        Self {
            world,
            device,
            backend,
            front,
        }
    }
}

/// A frame of these bytes, which nothing is said of.
#[must_use]
pub fn plain(bytes: Vec<u8>) -> Recorded {
    Recorded {
        bytes,
        offload: Offload::default(),
    }
}

/// A packet of these bytes, which nothing is said of.
#[must_use]
pub fn outgoing(bytes: &[u8]) -> Outgoing<'_> {
    Outgoing {
        bytes,
        ..Outgoing::default()
    }
}

/// Tells other threads to stop when it goes, also where a test fails.
#[derive(Debug)]
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the back end has something to do, and lets it; false where there was nothing for so long.
///
/// # Panics
///
/// As [`settle`].
pub fn step(backend: &mut Backend, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).expect("a sound duration");
    let fd = backend.fd();
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout));
    if ready.expect("poll works") == 0 {
        return false;
    }
    settle(backend);
    true
}

/// Lets the back end work until something is so.
///
/// # Panics
///
/// Where it does not come to be.
#[track_caller]
pub fn until(backend: &mut Backend, mut is_so: impl FnMut(&mut Backend) -> bool) {
    let end = Instant::now() + PATIENCE;
    settle(backend);
    while !is_so(backend) {
        assert!(Instant::now() < end, "it does not come");
        step(backend, Duration::from_millis(2));
    }
}

/// Waits for something that other threads bring about.
///
/// # Panics
///
/// Where it does not come to be.
#[track_caller]
pub fn eventually(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Nothing of the guest's is in use.
///
/// # Panics
///
/// Where something is.
#[track_caller]
pub fn assert_nothing_mapped(world: &World) {
    let table = world.guest().table().stats();
    assert_eq!(table.maps, table.unmaps, "{table:?}");
}
