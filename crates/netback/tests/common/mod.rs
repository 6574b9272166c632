//! What the tests of several queues share.

#![expect(dead_code, reason = "each test file uses some of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use cantle_netback::test_utils::{FrontOptions, NetFront, Outgoing, TestDevice, World, settle};
use cantle_netback::{Backend, BackendOptions};
use cantle_netport::Offload;
use cantle_netport::test_utils::Recorded;
use cantle_xenstore::xenbus::XenbusState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A connected interface.
pub(crate) struct Vif {
    pub(crate) world: World,
    pub(crate) device: TestDevice,
    pub(crate) backend: Backend,
    pub(crate) front: NetFront,
}

pub(crate) fn connect(device: TestDevice, options: BackendOptions, front: &FrontOptions) -> Vif {
    let pages = 514 * usize::try_from(front.queues).unwrap() + 8;
    let world = World::with_pages(pages);
    let mut backend = world
        .backend_with(Arc::new(device.clone()), options)
        .unwrap();
    let front = world.front(front);
    assert!(settle(&mut backend));
    assert_eq!(front.backend_state(), XenbusState::CONNECTED);
    Vif {
        world,
        device,
        backend,
        front,
    }
}

pub(crate) fn plain(bytes: Vec<u8>) -> Recorded {
    Recorded {
        bytes,
        offload: Offload::default(),
    }
}

pub(crate) fn outgoing(bytes: &[u8]) -> Outgoing<'_> {
    Outgoing {
        bytes,
        ..Outgoing::default()
    }
}

/// Waits until the back end has something to do, and lets it; false where there was nothing for so long.
pub(crate) fn step(backend: &mut Backend, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).unwrap();
    let ready = poll(
        &mut [PollFd::new(&backend.fd(), PollFlags::IN)],
        Some(&timeout),
    );
    if ready.unwrap() == 0 {
        return false;
    }
    settle(backend);
    true
}

/// Lets the back end work until something is so; it must come to be.
#[track_caller]
pub(crate) fn until(backend: &mut Backend, mut is_so: impl FnMut(&mut Backend) -> bool) {
    let end = Instant::now() + PATIENCE;
    settle(backend);
    while !is_so(backend) {
        assert!(Instant::now() < end, "it does not come");
        step(backend, Duration::from_millis(2));
    }
}

/// Waits for something that other threads bring about.
#[track_caller]
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Nothing of the guest's is in use.
#[track_caller]
pub(crate) fn assert_nothing_mapped(world: &World) {
    let table = world.guest().table().stats();
    assert_eq!(table.maps, table.unmaps, "{table:?}");
}
